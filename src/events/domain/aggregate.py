"""`AggregateRoot`: where domain events are published."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from events.domain.event import DomainEvent
from events.errors import InvalidDomainEventError

__all__ = ["AggregateRoot"]


class AggregateRoot:
    """Mix into an entity to publish domain events on it.

    Needs no `super().__init__()`: dataclasses, attrs classes, slotted and frozen classes and
    objects that an ORM loads without `__init__` all work. The events are kept in a slot beside the
    entity's own state, so they are no part of its `vars`, equality, repr or mapping, and stay
    behind when it is copied or pickled: what was published once is handled once.

    A class that has such slots itself cannot be a base beside it: of a pydantic `BaseModel` Python
    says "multiple bases have instance lay-out conflict". `@pydantic.dataclasses.dataclass` works.
    """

    __slots__ = ("_unpopped_events",)

    if TYPE_CHECKING:  # at runtime dataclasses, attrs and SQLAlchemy would make it a field
        _unpopped_events: list[DomainEvent] | None

    @property
    def events(self) -> tuple[DomainEvent, ...]:
        """What was published and not yet popped, oldest first; a copy, for reading."""
        return tuple(self._peek_events() or ())

    def publish_event(self, event: DomainEvent) -> None:
        """Keep an event until a dispatcher takes it (`from_entity`), or `pop_events` does.

        Raises:
            InvalidDomainEventError: it is no event. Found here, as later nobody knows who it was.
        """
        given: object = event
        if not isinstance(given, DomainEvent):
            raise _no_event(given)
        pending = self._peek_events()
        if pending is None:
            self._replace_events([event])
        else:
            pending.append(event)

    def pop_events(self) -> list[DomainEvent]:
        """Take the events away, oldest first. The list is the caller's."""
        pending = self._peek_events()
        if pending is None:
            return []
        self._replace_events(None)
        return pending

    def __getstate__(self) -> object:
        state: Any = super().__getstate__()
        match state:
            case (_, {"_unpopped_events": _}):
                attributes, slots = state
                del slots["_unpopped_events"]
                return (attributes, slots) if slots else attributes
            case _:
                return state

    def _peek_events(self) -> list[DomainEvent] | None:
        try:
            # Past the `__getattr__` of proxies, and of those that have an answer to every name.
            pending: list[DomainEvent] | None = object.__getattribute__(self, "_unpopped_events")
        except AttributeError:  # nothing was published yet; no `__init__` is there to fill it
            return None
        return pending

    def _replace_events(self, pending: list[DomainEvent] | None) -> None:
        # Past the `__setattr__` of frozen classes, and of those that track changes.
        object.__setattr__(self, "_unpopped_events", pending)


def _no_event(given: object) -> InvalidDomainEventError:
    if isinstance(given, type):
        reason = f"is a class, where an event is needed: publish `{given.__name__}(...)`"
        return InvalidDomainEventError(given, reason)
    reason = "is not a DomainEvent: publish an instance of one of its subclasses"
    return InvalidDomainEventError(type(given), reason)


def having_events(aggregates: Iterable[AggregateRoot]) -> list[AggregateRoot]:
    """Pick those with unpopped events; a dispatcher asks after every event, so it is quick."""
    return [each for each in aggregates if getattr(each, "_unpopped_events", None)]
