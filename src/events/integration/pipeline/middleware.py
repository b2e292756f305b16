"""What runs around each handling of an event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol, TypeAlias

from msgspec import Struct

from events.integration.event import IntegrationEvent
from events.integration.message import Delivery
from events.integration.topology import IntegrationEventBusRegistration

__all__ = ["Handle", "IncomingEvent", "Middleware", "compose"]


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


def compose(middlewares: Sequence[Middleware], handle: Handle) -> Handle:
    """Fold the middlewares around `handle`, the first one outermost."""
    for middleware in reversed(middlewares):
        handle = partial(_around, middleware, handle)
    return handle


def _around(middleware: Middleware, call_next: Handle, incoming: IncomingEvent) -> Awaitable[None]:
    return middleware(incoming, call_next)
