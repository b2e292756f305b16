"""The observer of domain events: it is called around each handler.

A process has one observer, or none, which is the default and costs nothing.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Generic, TypeVar

from events.domain.event import DomainEvent
from events.domain.event_handler.handler import DomainEventHandler

__all__ = ["ObservedHandler", "Observer", "current_observer", "observe", "observed", "observing"]

E = TypeVar("E", bound=DomainEvent)


class Observer:
    """Base of the observers of domain event handlers."""

    def handling(
        self, event: DomainEvent, handler: DomainEventHandler[Any]
    ) -> AbstractContextManager[None]:
        """Return a context manager for one handler of one event; it receives handler errors."""
        del event, handler
        return nullcontext()


_observer: Observer | None = None


def observe(observer: Observer | None) -> Observer | None:
    """Set the observer of the process, or remove it with None; return the previous one.

    A dispatcher keeps the observer that was set when it made the handlers of an event.
    """
    global _observer
    before, _observer = _observer, observer
    return before


def current_observer() -> Observer | None:
    """Return the observer of the process, or None."""
    return _observer


@contextmanager
def observing(observer: Observer) -> Generator[None]:
    """Set the observer of the process within the block."""
    before = observe(observer)
    try:
        yield
    finally:
        observe(before)


class ObservedHandler(DomainEventHandler[E], Generic[E]):
    """A handler that calls an observer."""

    def __init__(self, handler: DomainEventHandler[E], observer: Observer) -> None:
        self.handler = handler
        self._observer = observer

    async def handle(self, event: E) -> None:
        """Call the handler within the observer's context manager."""
        with self._observer.handling(event, self.handler):
            await self.handler.handle(event)


def observed(handlers: Sequence[DomainEventHandler[Any]]) -> Sequence[DomainEventHandler[Any]]:
    """Wrap the handlers if the process has an observer."""
    if _observer is None:
        return handlers
    return [ObservedHandler(handler, _observer) for handler in handlers]
