"""A bus on a database for the suites of schedules and recurrences; as a program, a process that dies.

What relays do for an outbox, the bus itself does with a consumer, which gives what comes to the
`ForwardedBus` of the suite.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from events.integration import IntegrationEvent, IntegrationEventBusRegistration
from events.integration.implementation.sqlalchemy import (
    SQLAlchemyIntegrationEventBus,
    SQLAlchemyOutbox,
)
from events.integration.implementation.sqlalchemy._clock import clock
from events.integration.message import Message, current_delivery
from events.integration.outbox.recurring import Recurring
from events.integration.outbox.timekeeper import Timekeeper
from events.integration.topology import Consumer
from events.testing import eventually
from events.testing.contracts.outbox import DEADLINE, TOPIC, Counted, ForwardedBus, JournalBus
from events.testing.contracts.recurring import every_minute
from tests.contracts.sqlalchemy_bus import DatabaseHarness, ServerHarness, SQLiteHarness
from tests.databases.bus_worker import DyingAfterReading, DyingAfterRemoving, die

LEASE = 15.0  # longer than a busy machine keeps a bus from renewing it
SHORT_LEASE = 1.0  # of a process that dies
MANY = 5  # events after which one dies in the middle of them


class Forwarding(Consumer):
    """Gives what comes to a bus."""

    def __init__(self, bus: ForwardedBus) -> None:
        super().__init__("worker")
        self._bus = bus

    async def on_event(self, event: IntegrationEvent) -> None:
        came = current_delivery()
        assert came is not None
        message = Message(came.topic, event.type, came.id, came.body, dict(came.headers), came.key)
        await self._bus.forward([message])


def bus_to(bus: ForwardedBus, engine: AsyncEngine, **options: Any) -> SQLAlchemyIntegrationEventBus:
    registration = IntegrationEventBusRegistration(Forwarding(bus), TOPIC, [Counted])
    return SQLAlchemyIntegrationEventBus(engine, [registration], **options)


class Unit(Struct):
    """A transaction, and its outbox."""

    session: AsyncSession
    outbox: SQLAlchemyOutbox

    def savepoint(self) -> Any:
        return self.session.begin_nested()


class Work(Struct):
    """A running bus; see `Sender`."""

    place: BusPlace
    timekeeper: Timekeeper

    async def drain(self) -> None:
        await self.timekeeper.tick()  # beside that of the bus, which has its own time

        async def is_empty() -> bool:
            # In this order: another timekeeper may be in the middle of moving what is due.
            next_schedule = await self.place.store.next_schedule()
            moved = next_schedule.due_at is None or next_schedule.due_at > next_schedule.now
            return moved and await self.place.due() == []

        await eventually(is_empty, DEADLINE)


class BusPlace:
    """See `SchedulingPlace`."""

    def __init__(self, harness: DatabaseHarness) -> None:
        self._harness = harness
        self._engine = harness.engines[0]
        self._table: Table = harness.metadata.tables["bus"]
        self.store = SQLAlchemyIntegrationEventBus(self._engine).transport.calendar  # type: ignore[attr-defined]

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncGenerator[Unit]:
        async with AsyncSession(self._engine) as session, session.begin():
            yield Unit(session, SQLAlchemyOutbox(session, table=self._table))

    @asynccontextmanager
    async def sending(
        self, bus: ForwardedBus, *, poll_interval: float = 2.0, recurring: Sequence[Recurring] = ()
    ) -> AsyncGenerator[Work]:
        engine = create_async_engine(self._harness.url)
        self._harness.engines.append(engine)
        timekeeper = Timekeeper(
            "the test",
            self.store,
            poll_interval=poll_interval,
            timeout=DEADLINE,
            released=lambda: None,
            recurring=recurring,
        )
        options: dict[str, Any] = {"poll_interval": poll_interval, "recurring": recurring}
        async with bus_to(bus, engine, lease=LEASE, **options):
            yield Work(self, timekeeper)

    async def due(self) -> list[str]:
        c = self._table.c
        query = select(c.event_id).where(c.available_at <= clock())
        async with self._engine.connect() as connection:
            return list((await connection.execute(query)).scalars())

    @asynccontextmanager
    async def process(self, journal: Path, step: str) -> AsyncGenerator[asyncio.subprocess.Process]:
        url = self._harness.url.render_as_string(hide_password=False)
        command = [sys.executable, "-m", "tests.contracts.sqlalchemy_bus_schedules"]
        process = await asyncio.create_subprocess_exec(*command, url, str(journal), step)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


class OnBus:
    """Give `harness`."""

    harness: type[SQLiteHarness | ServerHarness]

    @pytest.fixture
    async def place(self) -> AsyncGenerator[BusPlace]:
        harness = await asyncio.to_thread(self.harness)
        place = BusPlace(harness)
        async with place.sending(ForwardedBus()):
            pass  # its consumer is known from now on
        yield place
        await harness.aclose()


class DyingBus(JournalBus):
    """Writes down what comes, and dies where the step says: before one, between two, after one."""

    def __init__(self, journal: Path, step: str) -> None:
        super().__init__(journal)
        self._step = step

    async def forward(self, messages: Sequence[Message]) -> Sequence[None]:
        if self._step == "sending" and len(self.messages) == MANY:
            die()
        answers = await super().forward(messages)
        if self._step == "sent":
            die()
        return answers


async def main(url: str, journal: str, step: str) -> None:
    kind, _, step = step.rpartition(":")
    bus = bus_to(
        DyingBus(Path(journal), step),
        create_async_engine(url),
        lease=SHORT_LEASE,
        recurring=[every_minute()] if kind else (),
    )
    transport: Any = bus.transport
    dying = {"selected": DyingAfterReading, "removed": DyingAfterRemoving}.get(step)
    if dying is not None:
        transport._rows.__class__ = dying
    if step == "released":
        transport.calendar._put = die
    await bus.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
