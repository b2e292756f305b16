"""`AggregateRoot`: where domain events are published.

`AggregateRootMixin` does the work and has no state; `AggregateRoot` adds the slot for the events.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from events.domain.event import DomainEvent
from events.errors import InvalidDomainEventError

__all__ = ["AggregateRoot", "AggregateRootMixin"]

logger = logging.getLogger("events.domain")


A = TypeVar("A")


class _Unpopped(list[DomainEvent]):
    """The events of one aggregate. It logs a warning if it is collected with events in it."""

    __slots__ = ("_owner",)

    def __init__(self, event: DomainEvent, owner: str) -> None:
        super().__init__((event,))
        self._owner = owner

    def take(self) -> list[DomainEvent]:
        """Empty it into a list of the caller's."""
        taken = self[:]
        self.clear()
        return taken

    def __del__(self) -> None:
        if self and not sys.is_finalizing():
            logger.warning(
                "%s is gone with %d domain events that no dispatcher took (%s): call "
                "`dispatcher.from_entity(...)` with it before you commit. Where the unit of work "
                "failed, nothing is lost",
                self._owner,
                len(self),
                ", ".join(dict.fromkeys(str(event.type) for event in self)),
            )


class _Published:
    """`AggregateRoot.events`: seen on instances alone, so that a subclass may have its own.

    What makes fields of annotations looks at the class for a default, and must find none.
    """

    def __get__(self, aggregate: AggregateRootMixin | None, owner: type) -> list[DomainEvent]:
        if aggregate is None:
            raise AttributeError(f"type object {owner.__name__!r} has no attribute 'events'")
        return list(unpopped(aggregate) or ())


class AggregateRootMixin:
    """`AggregateRoot` for a base with a layout of its own, such as pydantic's `BaseModel`.

    It has no slot for the events. The class that has both bases gives it one; classes derived from
    that need none:

        class Aggregate(AggregateRootMixin, BaseModel):
            __slots__ = ("_unpopped_events",)

    Raises:
        InvalidDomainEventError: on defining a class without the slot.
    """

    __slots__ = ()

    if TYPE_CHECKING:  # at runtime dataclasses, attrs and SQLAlchemy would make them fields
        _unpopped_events: _Unpopped | None
        events: Any
    else:
        events = _Published()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not hasattr(cls, "_unpopped_events"):
            raise InvalidDomainEventError(
                cls,
                "has no slot for its events: derive it from AggregateRoot, or, beside a base with "
                'slots of its own, write `__slots__ = ("_unpopped_events",)` in its body',
            )

    def publish_event(self, event: DomainEvent) -> None:
        """Keep an event until a dispatcher takes it (`from_entity`), or `pop_events` does.

        Raises:
            InvalidDomainEventError: it is no event. Found here, as later nobody knows who it was.
        """
        given: object = event
        if not isinstance(given, DomainEvent):
            raise _no_event(given)
        pending = unpopped(self)
        if pending is None:
            # Past the `__setattr__` of frozen classes, and of those that track changes.
            fresh = _Unpopped(event, type(self).__qualname__)
            object.__setattr__(self, "_unpopped_events", fresh)
        else:
            pending.append(event)

    def pop_events(self) -> list[DomainEvent]:
        """Take the events away, oldest first. The list is the caller's.

        Override it to add those of entities inside the aggregate. A dispatcher that was given the
        aggregate calls it after each event.
        """
        pending = unpopped(self)
        return [] if pending is None else pending.take()

    def __getstate__(self) -> Any:
        state: Any = super().__getstate__()
        match state:
            case (_, {"_unpopped_events": _}):
                attributes, slots = state
                del slots["_unpopped_events"]
                return (attributes, slots) if slots else attributes
            case _:
                return state


class AggregateRoot(AggregateRootMixin):
    """Mix into an entity to publish domain events on it.

    Needs no `super().__init__()`: dataclasses, attrs classes, slotted and frozen classes and
    objects that an ORM loads without `__init__` all work. The events are kept in a slot beside the
    entity's own state, so they are no part of its `vars`, equality, repr or mapping, and stay
    behind when it is copied or pickled: what was published once is handled once.

    `events` is a copy of what was published and not yet popped, oldest first. A subclass may have
    a field, a relationship or a property of its own by that name, which then takes its place.

    An aggregate that is collected with unpopped events logs a warning that names them.

    A class that has slots of its own cannot be a base beside it: of a pydantic `BaseModel` Python
    says "multiple bases have instance lay-out conflict". `AggregateRootMixin` works there, and
    `@pydantic.dataclasses.dataclass` works with `AggregateRoot`.
    """

    __slots__ = ("_unpopped_events",)


def unpopped(aggregate: AggregateRootMixin) -> _Unpopped | None:
    """Return the list that holds the events, or None while nothing was ever published."""
    try:
        # Past the `__getattr__` of proxies, and of those that have an answer to every name.
        pending: _Unpopped | None = object.__getattribute__(aggregate, "_unpopped_events")
    except AttributeError:  # no `__init__` is there to fill it
        return None
    return pending


def _no_event(given: object) -> InvalidDomainEventError:
    if isinstance(given, type):
        reason = f"is a class, where an event is needed: publish `{given.__name__}(...)`"
        return InvalidDomainEventError(given, reason)
    reason = "is not a DomainEvent: publish an instance of one of its subclasses"
    return InvalidDomainEventError(type(given), reason)


def pops_its_own_alone(entity: object) -> TypeGuard[AggregateRootMixin]:
    """Return whether its events are all in its own slot, so that `having_events` sees them."""
    pop_events: object = getattr(type(entity), "pop_events", None)
    return pop_events is AggregateRootMixin.pop_events


def having_events(aggregates: Iterable[A]) -> list[A]:
    """Pick those with unpopped events; a dispatcher asks after every event, so it is quick."""
    return [each for each in aggregates if getattr(each, "_unpopped_events", None)]
