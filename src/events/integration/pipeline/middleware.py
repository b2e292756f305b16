"""Middleware: code that runs around each handling of an event.

A `Middleware` is any callable with the right signature. A `ManagedMiddleware` can also check
registrations, and open and close resources with its bus:

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


class IncomingEvent(Struct, frozen=True):
    """An event that a consumer is about to handle, with its delivery and registration."""

    event: IntegrationEvent
    delivery: Delivery
    registration: IntegrationEventBusRegistration


Handle: TypeAlias = Callable[[IncomingEvent], Awaitable[None]]


class Middleware(Protocol):
    """Run around each attempt to handle an event.

    Await `call_next(incoming)` once to continue. If you return without it, the event counts as
    handled. The retry policy sees the exception that you raise or do not catch. The first
    middleware in a bus's list is the outermost.
    """

    async def __call__(self, incoming: IncomingEvent, call_next: Handle, /) -> None:
        """Run around one attempt."""
        ...


class Serving(Struct, frozen=True):
    """A registration that a bus is about to serve, with its middleware.

    `retry` is the policy of the registration or, by default, of the bus. `middlewares` are those
    of the bus, the outermost first.
    """

    registration: IntegrationEventBusRegistration
    retry: RetryPolicy
    middlewares: Sequence[Middleware] = ()


class ManagedMiddleware(ABC):
    """Base of a middleware that starts and stops with its bus. Override what it needs.

    Each of several buses starts and stops a middleware that they share.
    """

    @abstractmethod
    async def __call__(self, incoming: IncomingEvent, call_next: Handle, /) -> None:
        """Run around one attempt; see `Middleware`."""

    def check(self, serving: Serving) -> None:  # noqa: B027 - to be overridden where needed
        """Raise `InvalidTopologyError` for a registration that it cannot serve.

        Called before the consumer receives events, at the bus's `startup` and at `register`.
        """

    async def startup(self) -> None:  # noqa: B027 - as above
        """Open resources. Called when the bus is connected; an error fails the bus's startup."""

    async def shutdown(self) -> None:  # noqa: B027 - as above
        """Close resources. Called after the last handler, in the task that stops the bus."""


class CheckedHandler(ABC):
    """Base of a handler in an `EventHandlerConsumer` that needs something from its bus."""

    @abstractmethod
    def check(self, serving: Serving) -> None:
        """Raise `InvalidTopologyError` if it is missing; called as `ManagedMiddleware.check`."""


class Middlewares:
    """Check, start and stop the managed middlewares of one bus."""

    def __init__(self, middlewares: Sequence[Middleware]) -> None:
        """Raise `InvalidTopologyError` if a middleware cannot run around an attempt."""
        given: object = middlewares
        if not isinstance(given, Iterable):
            raise InvalidTopologyError(f"middlewares {given!r}", "pass a list")
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
        """Call `check` of each middleware and each handler that has one."""
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
        """Start the middlewares, the outermost first."""
        for middleware in self._managed:
            await middleware.startup()
            self._started.push_async_callback(middleware.shutdown)

    async def shutdown(self) -> None:
        """Stop those that were started, the innermost first; raise the last error, if any."""
        await self._started.aclose()


def _why_not_a_middleware(given: object) -> str | None:
    """Return why it would fail on every event, or None if no reason is known."""
    if isinstance(given, type):
        return f"it is a class: pass an instance, as in {given.__name__}(...)"
    if not callable(given):
        return "it cannot be called: pass an async function, or an instance with `__call__`"
    return why_not_awaited(given, "`incoming` and `call_next`", object(), object())


def compose(middlewares: Sequence[Middleware], handle: Handle) -> Handle:
    """Fold the middlewares around `handle`, the first one outermost."""
    for middleware in reversed(middlewares):
        handle = partial(_around, middleware, handle)
    return handle


async def _around(middleware: Middleware, call_next: Handle, incoming: IncomingEvent) -> None:
    """Run one middleware; raise if it called `call_next` without awaiting it."""
    begun: Awaitable[None] | None = None

    def call_once(incoming: IncomingEvent) -> Awaitable[None]:
        nonlocal begun
        begun = call_next(incoming)
        return begun

    await middleware(incoming, call_once)
    if (
        isinstance(begun, CoroutineType)
        and begun.cr_frame
        and getcoroutinestate(begun) == CORO_CREATED
    ):
        raise InvalidTopologyError(
            f"middleware {middleware!r}",
            "it called `call_next` without awaiting it: write `await call_next(incoming)`",
        )
