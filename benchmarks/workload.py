"""The event that every contestant makes, sends and handles, about 200 bytes as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TypeAlias
from uuid import UUID

from benchmarks.measuring import Stopwatch
from events.integration import IntegrationEvent

ORDER = UUID("c7b3d1a4-8a04-4a1e-9d43-0c2d1f6a7e55")
PLACED_AT = datetime(2026, 11, 25, 21, 36, 5, 125_000, tzinfo=UTC)
TOTAL = Decimal("1299.90")


@dataclass(frozen=True)
class Customer:
    name: str
    email: str


@dataclass(frozen=True)
class Order:
    """What peers send. `OrderPlaced` has the same fields."""

    number: int
    order: UUID
    placed_at: datetime
    total: Decimal
    customer: Customer


@dataclass(frozen=True)
class OrderPlaced(Order, IntegrationEvent):
    type = "order.placed"
    version = 1


CUSTOMER = Customer("Ada Lovelace", "ada.lovelace@example.org")
Handle: TypeAlias = Callable[[Order], Awaitable[None]]
Send: TypeAlias = Callable[[Iterable[Order], int], Awaitable[None]]
"""Send these, so many in flight, and return when the broker has confirmed all of them."""


def make(count: int, of: type[Order] = Order) -> Iterator[Order]:
    """Make events as they are asked for, so that making them is part of the work."""
    for number in range(count):
        yield of(number, ORDER, PLACED_AT, TOTAL, CUSTOMER)


async def in_flight(
    send: Callable[[Order], Awaitable[object]], orders: Iterable[Order], at_once: int
) -> None:
    """Send with a client whose call returns when one message is confirmed."""
    left = iter(orders)

    async def work() -> None:
        for order in left:
            await send(order)

    if at_once == 1:
        await work()
    else:
        await asyncio.gather(*(work() for _ in range(at_once)))


class Counter:
    """A handler that counts, and has the time of `count` events that come after the first few.

    Those that read in batches have read a whole one by then: what they handle afterwards, they also
    have to fetch and to acknowledge.
    """

    def __init__(self, count: int, *, skip: int = 0) -> None:
        self.skip = skip
        self.count = skip + count
        self.handled = 0
        self.watch = Stopwatch()
        self.done = asyncio.Event()

    async def __call__(self, order: Order) -> None:
        assert order.customer.email == CUSTOMER.email
        self.handled += 1
        if self.handled == self.skip:
            self.watch.start()
        if self.handled == self.count:
            self.watch.stop()
            self.done.set()
