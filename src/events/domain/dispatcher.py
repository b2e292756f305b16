"""`DomainEventDispatcher`: take events from aggregates, and run their handlers.

One dispatcher serves one unit of work. Its queue holds steps. Each step refers to the one that
caused it, so an error can show a cycle as a chain:

    store_event, from_entity ──► queue ──process──► handlers ──► done, when the queue is empty
                                   ▲                   │
                                   └── what they store, and publish on aggregates seen before
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from contextlib import suppress
from types import CoroutineType, TracebackType
from typing import Any, Protocol, Self, TypeAlias, cast

from events.domain.aggregate import AggregateRootMixin, having_events, pops_its_own_alone
from events.domain.event import DomainEvent, type_of
from events.domain.event_handler.factory import DomainEventHandlerFactory, make_at_once
from events.domain.event_handler.handler import DomainEventHandler, check_event_class
from events.domain.observation import ObservedHandler, observed
from events.errors import DispatcherBusyError, EventChainTooLongError

# An event, the step whose handlers caused it, and its place in that chain. A plain tuple: one is
# made for every event.
_Step: TypeAlias = "tuple[DomainEvent, _Step | None, int]"

logger = logging.getLogger("events.domain")

# A cycle that branches gets wide before it gets long, so the width is limited as well.
_CAUSED_PER_LIMIT = 100


class _HasEvents(Protocol):
    """What `from_entity` takes: an `AggregateRoot`, or any object with `pop_events`."""

    def pop_events(self) -> Sequence[DomainEvent]: ...


class DomainEventDispatcher:
    """Handle the domain events of one unit of work, in its transaction, before it commits.

        async with DomainEventDispatcher(factory) as dispatcher:
            order.complete()
            dispatcher.from_entity(order)
        await session.commit()

    Events are handled first in, first out. The handlers of an event run one after another, in the
    order of their registration, in the caller's task, so they may share a session. Make one
    dispatcher for each unit of work, and use it from one task: it keeps its handlers and its
    aggregates, and `process` raises an error while another `process` is running.

    `async with` processes the events at its exit, and releases the aggregates. If the body raised,
    or was cancelled, it drops all events instead. Blocks may be nested: the inner block processes
    the events so far, the outer one the rest.

    Args:
        handler_factory: makes the handlers of an event type, once for each type.
        limit: the length of the longest chain in which each event caused the next one. Events
            that are stored side by side are no chain, but handlers that cause more than a hundred
            times `limit` events in one `process` also raise `EventChainTooLongError`.
    """

    def __init__(
        self,
        handler_factory: DomainEventHandlerFactory,
        *,
        limit: int = 1000,
    ) -> None:
        if limit < 1:
            raise ValueError(f"limit must be 1 or more, not {limit}")
        if isinstance(handler_factory, type) or not hasattr(handler_factory, "create"):
            _refuse_factory(handler_factory)
        self._factory = handler_factory
        self._limit = limit
        self._queue: deque[_Step] = deque()
        self._handling: _Step | None = None  # something exactly while `process` awaits
        # The handlers by the class of their event, and what `make_at_once` keeps here.
        self._handlers: dict[type, Any] = {}
        self._seen: dict[int, _HasEvents] = {}
        self._asked: tuple[
            _HasEvents, ...
        ] = ()  # those of the seen with a `pop_events` of their own
        self._entered = 0
        self._watch: _Watch | None = None

    def store_event(self, event: DomainEvent) -> None:
        """Append an event to the queue; `process` handles it."""
        if not self._entered and self._watch is None:  # a block processes by itself
            self._watch = _Watch(self._queue)
        cause = self._handling
        self._queue.append((event, cause, 1 if cause is None else cause[2] + 1))

    def store_events(self, events: Iterable[DomainEvent]) -> None:
        """Append events to the queue, in their order."""
        for event in events:
            self.store_event(event)

    def from_entity(self, entity: _HasEvents) -> None:
        """Take the entity's events, now and whenever handlers publish more on it.

        The dispatcher keeps a reference to the entity until a failure or the end of `async with`.
        The entity may be any object with `pop_events`. If it overrides `AggregateRoot.pop_events`,
        for example to collect the events of child entities, that is called after each event.
        """
        if id(entity) not in self._seen and not pops_its_own_alone(entity):
            if not isinstance(entity, AggregateRootMixin):
                _check_entity(entity)
            self._asked += (entity,)
        self._seen[id(entity)] = entity
        self.store_events(entity.pop_events())

    async def process(self) -> None:
        """Handle events until none is left, including those that handlers store or publish.

        The first error is raised unchanged, with a note that names the event and the handler.
        After an error or a cancellation, the queue and the events of the aggregates are dropped.

        Raises:
            DispatcherBusyError: `process` is already running, further up the stack or in another
                task.
            EventChainTooLongError: events cause events without an end.
        """
        if self._handling is not None:
            raise DispatcherBusyError
        queue, seen = self._queue, self._seen
        handlers: dict[type, Sequence[DomainEventHandler[Any]]] = self._handlers
        event: DomainEvent | None = None
        handler: DomainEventHandler[Any] | None = None
        caused = 0
        try:
            if seen:
                self._collect()
            while queue:
                event = handler = None
                self._handling = step = queue.popleft()
                if step[1] is not None:
                    caused += 1
                    self._check_chain(step, caused)
                event = step[0]
                event_type = type(event)
                if event_type not in handlers:
                    made = make_at_once(self._factory, event_type, handlers)
                    handlers[event_type] = observed(made or await self._create(event_type))
                for handler in handlers[event_type]:
                    await handler.handle(event)
                if seen:
                    self._collect()
        except BaseException as error:
            if event is not None:
                _note(error, event, handler)
            self._drop()
            raise
        finally:
            self._handling = None

    async def _create(self, event_type: type[DomainEvent]) -> Sequence[DomainEventHandler[Any]]:
        check_event_class(event_type)
        made: object = self._factory.create(event_type)
        is_async = type(made) is CoroutineType or isinstance(made, Awaitable)
        if is_async:
            made = await cast("Awaitable[object]", made)
        # The types that are usual go first: to ask an abstract class takes ten times as long.
        if is_async and (type(made) is list or isinstance(made, Sequence)):
            handlers = cast("Sequence[DomainEventHandler[Any]]", made)
            for handler in handlers:
                if isinstance(handler, type) or not hasattr(handler, "handle"):
                    break
            else:
                return handlers
        raise TypeError(
            f"{self._factory!r} returned {made!r} as the handlers of {event_type.__qualname__}: "
            f"`async def create(self, event_type)` must return a sequence of handler instances, "
            f"in the order in which they run"
        )

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
            self._forget()

    def _check_chain(self, step: _Step, caused: int) -> None:
        too_long = step[2] > self._limit
        if too_long or caused > self._limit * _CAUSED_PER_LIMIT:
            chain = [type_of(each[0]) for each in _back_to_the_first(step)][::-1]
            raise EventChainTooLongError(chain, self._limit, None if too_long else caused)

    def _collect(self) -> None:
        for entity in having_events(self._seen.values()):
            self.store_events(entity.pop_events())
        for entity in self._asked:
            self.store_events(entity.pop_events())

    def _drop(self) -> None:
        self._queue.clear()
        entities = tuple(self._seen.values())
        self._forget()
        for entity in entities:
            try:
                entity.pop_events()
            except Exception:  # the error for which these are dropped is the one to raise
                logger.exception("the events of a %s are not dropped", type(entity).__qualname__)

    def _forget(self) -> None:
        self._seen.clear()
        self._asked = ()


class _Watch:
    """Logs a warning when a dispatcher is collected with events that were never processed."""

    __slots__ = ("_queue",)

    def __init__(self, queue: deque[_Step]) -> None:
        self._queue = queue

    def __del__(self) -> None:
        if self._queue:
            logger.warning(
                "%d domain events were never processed (%s): use `async with dispatcher:`, or "
                "await its `process()` before you commit. If the unit of work failed before "
                "that, ignore this warning",
                len(self._queue),
                ", ".join(dict.fromkeys(type_of(step[0]) for step in self._queue)),
            )


def _refuse_factory(given: object) -> None:
    cure = "write SimpleDomainEventHandlerFactory(), or a class with `create`"
    if hasattr(given, "get"):
        cure = "pass a registry to a factory: SimpleDomainEventHandlerFactory(registry=...)"
    raise TypeError(f"handler_factory must be a DomainEventHandlerFactory, not {given!r}: {cure}")


def _check_entity(given: object) -> None:
    """Raise unless the entity has `pop_events`."""
    if isinstance(given, DomainEvent):
        cure = "store an event with `store_event`"
    elif isinstance(given, type) or not hasattr(given, "pop_events"):
        cure = "pass one instance at a time, and derive its class from AggregateRoot"
    else:
        return
    raise TypeError(f"from_entity takes an AggregateRoot, not {given!r}: {cure}")


def _back_to_the_first(step: _Step | None) -> Iterator[_Step]:
    while step is not None:
        yield step
        step = step[1]


def _note(
    error: BaseException, event: DomainEvent, handler: DomainEventHandler[Any] | None
) -> None:
    doing = "making the handlers of" if handler is None else f"{_name(handler)} was handling"
    with suppress(Exception):  # a frozen exception refuses notes
        error.add_note(
            f"while {doing} {type(event).__qualname__} ({getattr(event, 'type', None)!r})"
        )


def _name(handler: DomainEventHandler[Any]) -> str:
    if isinstance(handler, ObservedHandler):
        handler = handler.handler
    return type(handler).__qualname__
