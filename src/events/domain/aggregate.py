"""`AggregateRoot`: where domain events are published.

`AggregateRootMixin` does the work and has no state; `AggregateRoot` adds the slot for the events.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from events.domain.event import DomainEvent, type_of
from events.errors import InvalidDomainEventError

logger = logging.getLogger("events.domain")


A = TypeVar("A")


class _Unpopped(list[DomainEvent]):
    """The events of one aggregate. Logs a warning if it is collected with events in it."""

    __slots__ = ("_owner",)

    def __init__(self, event: DomainEvent, owner: str) -> None:
        super().__init__((event,))
        self._owner = owner

    def take(self) -> list[DomainEvent]:
        """Return the events as a new list, and empty this one."""
        taken = self[:]
        self.clear()
        return taken

    def __del__(self) -> None:
        if self and not sys.is_finalizing():
            logger.warning(
                "%s was collected with %d domain events that no dispatcher took (%s): call "
                "`dispatcher.from_entity(...)` with it before any code that may fail, and before "
                "you commit. If the unit of work failed, ignore this warning",
                self._owner,
                len(self),
                ", ".join(dict.fromkeys(map(type_of, self))),
            )


class _Published:
    """`AggregateRoot.events`: visible on instances only, so that a subclass may define its own.

    Libraries that make fields of annotations look at the class for a default, and must find none.
    """

    def __get__(self, aggregate: AggregateRootMixin | None, owner: type) -> list[DomainEvent]:
        if aggregate is None:
            raise AttributeError(f"type object {owner.__name__!r} has no attribute 'events'")
        return list(unpopped(aggregate) or ())


class AggregateRootMixin:
    """`AggregateRoot` for classes with another base that has slots, such as pydantic's `BaseModel`.

    The mixin has no slot for the events. Add it in the class that has both bases; its subclasses
    inherit it:

        class Aggregate(AggregateRootMixin, BaseModel):
            __slots__ = ("_unpopped_events",)

    Raises:
        InvalidDomainEventError: a class without the slot is defined.
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
                "has no slot for its events: derive it from AggregateRoot; if another base has "
                'slots, write `__slots__ = ("_unpopped_events",)` in the class body',
            )

    def publish_event(self, event: DomainEvent) -> None:
        """Keep an event until a dispatcher takes it (`from_entity`), or `pop_events` does.

        Raises:
            InvalidDomainEventError: it is not an event. Raised here, where the traceback shows
                the publisher.
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
        """Remove the events and return them as a new list, oldest first.

        Override it to add the events of entities inside the aggregate. A dispatcher calls the
        override after each event.
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

    No `super().__init__()` is needed: dataclasses, attrs classes, slotted and frozen classes and
    objects that an ORM loads without `__init__` all work. The events are kept in a slot, apart from
    the entity's state. They are not part of its `vars`, equality, repr or mapping, and a copy or a
    pickle does not have them: an event that is published once is handled once.

    `events` is a copy of the published events that were not popped yet, oldest first. A subclass
    may define a field, a relationship or a property with that name instead.

    An aggregate that is collected with unpopped events logs a warning that names them.

    Another base with slots, such as pydantic's `BaseModel`, cannot be combined with this class:
    Python raises "multiple bases have instance lay-out conflict". Use `AggregateRootMixin` there.
    `@pydantic.dataclasses.dataclass` works with `AggregateRoot`.
    """

    __slots__ = ("_unpopped_events",)


def unpopped(aggregate: AggregateRootMixin) -> _Unpopped | None:
    """Return the list that holds the events, or None if no event was ever published."""
    try:
        # Past the `__getattr__` of proxies and mocks.
        pending: _Unpopped | None = object.__getattribute__(aggregate, "_unpopped_events")
    except AttributeError:  # no `__init__` fills the slot
        return None
    return pending


def _no_event(given: object) -> InvalidDomainEventError:
    if isinstance(given, type):
        reason = f"is a class, not an event: publish `{given.__name__}(...)`"
        return InvalidDomainEventError(given, reason)
    reason = "is not a DomainEvent: publish an instance of one of its subclasses"
    return InvalidDomainEventError(type(given), reason)


def pops_its_own_alone(entity: object) -> TypeGuard[AggregateRootMixin]:
    """Return whether all its events are in its own slot, where `having_events` looks."""
    pop_events: object = getattr(type(entity), "pop_events", None)
    return pop_events is AggregateRootMixin.pop_events


def having_events(aggregates: Iterable[A]) -> list[A]:
    """Return the aggregates with unpopped events. Called after every event, so it is quick."""
    return [each for each in aggregates if getattr(each, "_unpopped_events", None)]
