"""`DomainEventDispatcher`: take events from aggregates, and run their handlers to the end.

One dispatcher serves one unit of work. Its queue holds steps, and each step knows the one that
caused it, so that a circle can be shown as the chain that it is:

    store_event, from_entity ──► queue ──process──► handlers ──► done, when the queue is empty
                                   ▲                   │
                                   └── what they store, and publish on aggregates seen before
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeAlias

from events.domain.aggregate import AggregateRoot, having_events
from events.domain.event import DomainEvent
from events.domain.event_handler.factory import DomainEventHandlerFactory
from events.domain.event_handler.handler import DomainEventHandler, DomainEventHandlerRegistry
from events.errors import DispatcherBusyError, EventChainTooLongError

__all__ = ["DomainEventDispatcher"]

# An event, the step whose handlers caused it, and its place in that chain. A plain tuple: one is
# made for every event.
_Step: TypeAlias = "tuple[DomainEvent, _Step | None, int]"

logger = logging.getLogger("events.domain")

# A circle that branches grows too wide to ever get long, so width is limited as well.
_CAUSED_PER_LIMIT = 100


class DomainEventDispatcher:
    """Handle the events of one unit of work, in its transaction, before it commits.

        async with DomainEventDispatcher(factory) as dispatcher:
            order.complete()
            dispatcher.from_entity(order)
        await session.commit()

    Events are handled first in, first out; the handlers of one run one after another, in the
    order of their registration, in the caller's task: they may share a session. Make one
    dispatcher for each unit of work, and use it from one task: it keeps the handlers that it has
    made and the aggregates that it has seen, and `process` called while it is running is refused.

    `async with` processes at its exit, and lets go of the aggregates. If the body raised, or was
    cancelled, it drops all events instead. Blocks may be nested: the inner one processes what
    there is, and the outer one the rest.

    Args:
        handler_factory: makes the handlers, each once.
        registry: which handlers an event has; by default all that were defined.
        limit: how long a chain may get in which each event was caused by handling the one before.
            Events stored side by side are no chain; but handlers that cause more than a hundred
            times as many in one `process` are taken to go round in a circle, too.
    """

    def __init__(
        self,
        handler_factory: DomainEventHandlerFactory,
        registry: DomainEventHandlerRegistry | None = None,
        *,
        limit: int = 1000,
    ) -> None:
        if limit < 1:
            raise ValueError(f"limit is {limit}: not even one event could be handled")
        if registry is None:
            registry = DomainEventHandler.registry
        given: object = registry
        if not isinstance(given, DomainEventHandlerRegistry):
            _check_registry(given)
        self._create = handler_factory.create
        self._registry = registry
        self._limit = limit
        self._queue: deque[_Step] = deque()
        self._handling: _Step | None = None  # something exactly while `process` awaits
        self._handlers: dict[type, DomainEventHandler[Any]] = {}
        self._seen: dict[int, AggregateRoot] = {}
        self._entered = 0
        self._watch: _Watch | None = None

    def store_event(self, event: DomainEvent) -> None:
        """Put an event at the end of the queue; `process` handles it."""
        if not self._entered and self._watch is None:  # a block processes by itself
            self._watch = _Watch(self._queue)
        cause = self._handling
        self._queue.append((event, cause, 1 if cause is None else cause[2] + 1))

    def store_events(self, events: Iterable[DomainEvent]) -> None:
        """Put events at the end of the queue, in their order."""
        for event in events:
            self.store_event(event)

    def from_entity(self, entity: AggregateRoot) -> None:
        """Take the entity's events, now and whenever handlers publish more on it.

        The dispatcher keeps a reference to it, until a failure or the end of `async with`.
        """
        given: object = entity
        if not isinstance(given, AggregateRoot):
            _check_entity(given)
        self._seen[id(entity)] = entity
        self.store_events(entity.pop_events())

    async def process(self) -> None:
        """Handle events until none is left, also those that handlers store or publish meanwhile.

        The first error is raised as it is, with a note that names event and handler. After it,
        and after a cancellation, nothing is left behind: the queue is empty, and so are the
        aggregates that were seen.

        Raises:
            DispatcherBusyError: it is running already, in a caller further up or another task.
            EventChainTooLongError: events cause events without an end.
        """
        if self._handling is not None:
            raise DispatcherBusyError
        queue, seen, handlers, find = self._queue, self._seen, self._handlers, self._registry.get
        event = handler_class = None
        caused = 0
        try:
            if seen:
                self._collect()
            while queue:
                self._handling = step = queue.popleft()
                event, handler_class = step[0], None
                if step[1] is not None:
                    caused += 1
                    self._check_chain(step, caused)
                for handler_class in find(type(event)):
                    if handler_class in handlers:
                        handler = handlers[handler_class]
                    else:
                        handler = handlers[handler_class] = await self._create(handler_class)
                    await handler.handle(event)
                if seen:
                    self._collect()
        except BaseException as error:
            if handler_class is not None:
                _note(error, event, handler_class)
            self._drop()
            raise
        finally:
            self._handling = None

    async def __aenter__(self) -> Self:
        if self._handling is not None:
            raise DispatcherBusyError
        self._entered += 1
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._entered -= 1
        if exc_type is not None:
            self._drop()
            return
        await self.process()
        if not self._entered:
            self._seen.clear()

    def _check_chain(self, step: _Step, caused: int) -> None:
        too_long = step[2] > self._limit
        if too_long or caused > self._limit * _CAUSED_PER_LIMIT:
            chain = [each[0].type for each in _back_to_the_first(step)][::-1]
            raise EventChainTooLongError(chain, self._limit, None if too_long else caused)

    def _collect(self) -> None:
        for entity in having_events(self._seen.values()):
            self.store_events(entity.pop_events())

    def _drop(self) -> None:
        self._queue.clear()
        for entity in self._seen.values():
            entity.pop_events()
        self._seen.clear()


class _Watch:
    """Tells, when a dispatcher has gone, of events that it was given and nobody had it process."""

    __slots__ = ("_queue",)

    def __init__(self, queue: deque[_Step]) -> None:
        self._queue = queue

    def __del__(self) -> None:
        if self._queue:
            logger.warning(
                "%d domain events were never processed (%s): use `async with dispatcher:`, or "
                "await its `process()` before you commit. Where the unit of work failed in "
                "between, nothing is lost",
                len(self._queue),
                ", ".join(dict.fromkeys(step[0].type for step in self._queue)),
            )


def _check_registry(given: object) -> None:
    """Raise unless it does what a registry does."""
    if isinstance(given, Mapping):
        cure = "write DomainEventHandlerRegistry(mapping)"
    elif isinstance(given, type) or not hasattr(given, "get"):
        cure = "for a list of handlers, write DomainEventHandlerRegistry.of(handlers)"
    else:
        return
    raise TypeError(f"registry must be a DomainEventHandlerRegistry, not {given!r}: {cure}")


def _check_entity(given: object) -> None:
    """Raise unless it does what an aggregate does."""
    if isinstance(given, DomainEvent):
        cure = "an event is stored by `store_event`"
    elif isinstance(given, type) or not hasattr(given, "pop_events"):
        cure = "give one at a time, and derive its class from AggregateRoot"
    else:
        return
    raise TypeError(f"from_entity takes an AggregateRoot, not {given!r}: {cure}")


def _back_to_the_first(step: _Step | None) -> Iterator[_Step]:
    while step is not None:
        yield step
        step = step[1]


def _note(error: BaseException, event: DomainEvent | None, handler_class: type) -> None:
    with suppress(Exception):  # an exception that is frozen takes no note
        error.add_note(
            f"while {handler_class.__qualname__} was handling "
            f"{type(event).__qualname__} ({getattr(event, 'type', None)!r})"
        )
