"""Where events wait for their time in the suites of schedules and recurrences, and who sends them.

That is an outbox with its relays. A bus that is a `SchedulingStore` itself, with consumers in their
place, overrides the fixture `place` of the suites by a `SchedulingPlace` of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from events.integration.outbox import OutboxRelay, SchedulingStore
from events.testing.contracts.outbox import (
    DEADLINE,
    ForwardedBus,
    OutboxDatabase,
    UnitOfWork,
    pending,
    relay_process,
)

if TYPE_CHECKING:  # it needs an extra
    from events.integration.outbox.recurring import Recurring


class Sender(Protocol):
    """The running bus or relay."""

    async def drain(self) -> None:
        """Return when all is sent whose time had come."""
        ...


class SchedulingPlace(Protocol):
    """What the suites need. It starts empty."""

    @property
    def store(self) -> SchedulingStore:
        """Return what is scheduled, as timekeepers see it."""
        ...

    def unit_of_work(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """Begin a transaction: committed at the exit, rolled back if the body raises."""
        ...

    def sending(
        self, bus: ForwardedBus, *, poll_interval: float = 2.0, recurring: Sequence[Recurring] = ()
    ) -> AbstractAsyncContextManager[Sender]:
        """Have what is due forwarded to this bus, beside others that do so."""
        ...

    async def due(self) -> list[str]:
        """Return the ids of the events that are due, and not sent."""
        ...

    def process(
        self, journal: Path, step: str
    ) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
        """Start a process that sends into a journal, and dies as `relay_and_die` says."""
        ...


class OutboxPlace:
    """The outbox of a database, with relays."""

    def __init__(self, database: OutboxDatabase) -> None:
        self._database = database
        store = database.store
        assert isinstance(store, SchedulingStore), f"{store!r} schedules nothing"
        self.store = store
        self.unit_of_work = database.unit_of_work

    @asynccontextmanager
    async def sending(
        self, bus: ForwardedBus, *, poll_interval: float = 2.0, recurring: Sequence[Recurring] = ()
    ) -> AsyncGenerator[OutboxRelay]:
        """See `SchedulingPlace`."""
        store = self._database.store
        async with OutboxRelay(store, bus, poll_interval=poll_interval, recurring=recurring) as it:
            yield it

    async def due(self) -> list[str]:
        """See `SchedulingPlace`."""
        return [row.message.id for row in await pending(self._database.store)]

    def process(
        self, journal: Path, step: str
    ) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
        """See `SchedulingPlace`."""
        return relay_process(self._database, journal, step)


class SchedulingSuite:
    """Base of both suites."""

    @pytest.fixture
    def database(self) -> OutboxDatabase:
        """Return a database whose outbox is empty."""
        raise NotImplementedError

    @pytest.fixture
    def place(self, database: OutboxDatabase) -> SchedulingPlace:
        """Return where events wait."""
        return OutboxPlace(database)


async def sent(place: SchedulingPlace, *recurring: Recurring) -> ForwardedBus:
    """Send all whose time has come."""
    bus = ForwardedBus()
    async with place.sending(bus, recurring=recurring) as sender, asyncio.timeout(DEADLINE):
        await sender.drain()
    return bus
