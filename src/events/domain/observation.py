"""What can be observed of domain events: a handler begins, and ends.

One observer serves a process. There is none by default, and then nothing is called.
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
    """Base of what watches the handlers of domain events."""

    def handling(
        self, event: DomainEvent, handler: DomainEventHandler[Any]
    ) -> AbstractContextManager[None]:
        """Run around one handler of one event. It sees what the handler raises."""
        del event, handler
        return nullcontext()


_observer: Observer | None = None


def observe(observer: Observer | None) -> Observer | None:
    """Have this one observe the process from now on, or nobody; return the one before.

    A dispatcher keeps the one that it met when it made the handlers of an event.
    """
    global _observer
    before, _observer = _observer, observer
    return before


def current_observer() -> Observer | None:
    """Return the one that observes the process, or None."""
    return _observer


@contextmanager
def observing(observer: Observer) -> Generator[None]:
    """Have this one observe the process within the block."""
    before = observe(observer)
    try:
        yield
    finally:
        observe(before)


class ObservedHandler(DomainEventHandler[E], Generic[E]):
    """A handler as its observer sees it. Handlers that nobody observes stay as they are."""

    def __init__(self, handler: DomainEventHandler[E], observer: Observer) -> None:
        self.handler = handler
        self._observer = observer

    async def handle(self, event: E) -> None:
        """Have the handler handle the event, observed."""
        with self._observer.handling(event, self.handler):
            await self.handler.handle(event)


def observed(handlers: Sequence[DomainEventHandler[Any]]) -> Sequence[DomainEventHandler[Any]]:
    """Have the handlers observed, if somebody observes the process."""
    if _observer is None:
        return handlers
    return [ObservedHandler(handler, _observer) for handler in handlers]
