"""What runs around each handling of an event.

A `Middleware` is any callable of the right form. One that has something to open, to watch or to
refuse is a `ManagedMiddleware`, which its bus looks after:

    startup --> check, for each registration, before it receives --> attempts --> shutdown
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from inspect import CORO_CREATED, getcoroutinestate
from types import CoroutineType
from typing import Protocol, TypeAlias

from msgspec import Struct

from events.errors import InvalidTopologyError
from events.integration.event import IntegrationEvent
from events.integration.message import Delivery
from events.integration.topology import (
    EventHandlerConsumer,
    IntegrationEventBusRegistration,
    RetryPolicy,
)
from events.integration.topology.checks import why_not_awaited

__all__ = [
    "CheckedHandler",
    "Handle",
    "IncomingEvent",
    "ManagedMiddleware",
    "Middleware",
    "Middlewares",
    "Serving",
    "compose",
]


class IncomingEvent(Struct, frozen=True):
    """An event on its way to a consumer: what it is, how it came, and for whom."""

    event: IntegrationEvent
    delivery: Delivery
    registration: IntegrationEventBusRegistration


Handle: TypeAlias = Callable[[IncomingEvent], Awaitable[None]]


class Middleware(Protocol):
    """Run around each attempt to handle an event.

    Await `call_next(incoming)` once to go on; return without it and the event counts as handled. An
    exception, raised here or passed on, is what the retry policy sees. The first in a bus's list is
    the outermost.
    """

    async def __call__(self, incoming: IncomingEvent, call_next: Handle, /) -> None:
        """Run around one attempt."""
        ...


class Serving(Struct, frozen=True):
    """What a bus is about to serve: a registration, and what will run around its handlings.

    `retry` is the policy that holds for it, its own or the bus's. `middlewares` are all of the
    bus's, the outermost first.
    """

    registration: IntegrationEventBusRegistration
    retry: RetryPolicy
    middlewares: Sequence[Middleware] = ()


class ManagedMiddleware(ABC):
    """Base of a middleware that lives with its bus. Override what it needs.

    A middleware of several buses is started and stopped by each of them.
    """

    @abstractmethod
    async def __call__(self, incoming: IncomingEvent, call_next: Handle, /) -> None:
        """Run around one attempt; see `Middleware`."""

    def check(self, serving: Serving) -> None:  # noqa: B027 - to be overridden where needed
        """Raise `InvalidTopologyError` for a registration that it could not serve.

        Called before the consumer receives, at the bus's `startup` and at `register`.
        """

    async def startup(self) -> None:  # noqa: B027 - as above
        """Open what attempts need. Called when the bus is connected; raising fails its startup."""

    async def shutdown(self) -> None:  # noqa: B027 - as above
        """Close it. Called when the last handler has ended, in whatever task stops the bus."""


class CheckedHandler(ABC):
    """Base of a handler in an `EventHandlerConsumer` that needs something of its bus."""

    @abstractmethod
    def check(self, serving: Serving) -> None:
        """Raise `InvalidTopologyError` if it is not there; called as `ManagedMiddleware.check`."""


class Middlewares:
    """Look after the managed ones among the middlewares of one bus."""

    def __init__(self, middlewares: Sequence[Middleware]) -> None:
        """Take them.

        Raises:
            InvalidTopologyError: one of them could not run around an attempt.
        """
        given: object = middlewares
        if not isinstance(given, Iterable):
            raise InvalidTopologyError(f"middlewares {given!r}", "give a list of them")
        self._all = tuple(middlewares)
        for each in self._all:
            reason = _why_not_a_middleware(each)
            if reason is not None:
                raise InvalidTopologyError(f"middleware {each!r}", reason)
        self._managed = [each for each in self._all if isinstance(each, ManagedMiddleware)]
        self._started = AsyncExitStack()

    def __iter__(self) -> Iterator[Middleware]:
        return iter(self._all)

    def check(self, registration: IntegrationEventBusRegistration, retry: RetryPolicy) -> None:
        """Have each say whether it can serve the registration, and its handlers if they could."""
        serving = Serving(registration, retry, self._all)
        for middleware in self._managed:
            middleware.check(serving)
        consumer = registration.consumer
        if isinstance(consumer, EventHandlerConsumer):
            for event in registration.events:
                handlers: Sequence[object] = consumer.handlers.get(event, ())
                for handler in handlers:
                    if isinstance(handler, CheckedHandler):
                        handler.check(serving)

    async def startup(self) -> None:
        """Start them, the outermost first."""
        for middleware in self._managed:
            await middleware.startup()
            self._started.push_async_callback(middleware.shutdown)

    async def shutdown(self) -> None:
        """Stop those that were started, the innermost first, and raise what the last one raises."""
        await self._started.aclose()


def _why_not_a_middleware(given: object) -> str | None:
    """Say why it would fail on each event, or None if nothing speaks against it."""
    if isinstance(given, type):
        return f"it is a class: give an instance, as in {given.__name__}(...)"
    if not callable(given):
        return "it cannot be called: give an async function, or an instance with `__call__`"
    return why_not_awaited(given, "what comes in and `call_next`", object(), object())


def compose(middlewares: Sequence[Middleware], handle: Handle) -> Handle:
    """Fold the middlewares around `handle`, the first one outermost."""
    for middleware in reversed(middlewares):
        handle = partial(_around, middleware, handle)
    return handle


async def _around(middleware: Middleware, call_next: Handle, incoming: IncomingEvent) -> None:
    """Run one middleware; an `await` that it forgot must not have the event count as handled."""
    begun: Awaitable[None] | None = None

    def going_on(incoming: IncomingEvent) -> Awaitable[None]:
        nonlocal begun
        begun = call_next(incoming)
        return begun

    await middleware(incoming, going_on)
    if (
        isinstance(begun, CoroutineType)
        and begun.cr_frame
        and getcoroutinestate(begun) == CORO_CREATED
    ):
        raise InvalidTopologyError(
            f"middleware {middleware!r}",
            "it called `call_next` and did not await it: write `await call_next(incoming)`",
        )
