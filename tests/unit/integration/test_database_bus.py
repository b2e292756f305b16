"""The bus on a database: sending in a transaction, and handling in one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, event, func, insert, select
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from events.errors import InvalidTopologyError, OutboxTableError, UnsupportedByBusError
from events.integration import IntegrationEvent, IntegrationEventBusRegistration, Topic
from events.integration.topology import RetryPolicy
from events.sqlalchemy import (
    SQLAlchemyBus,
    SQLAlchemyInbox,
    SQLAlchemyOutbox,
    bus_table,
    current_session,
    enable_wal,
    inbox_table,
)
from events.testing import eventually
from events.testing.contracts import Numbered, Probe

TOPIC = Topic("numbers")
METADATA = MetaData()
BUS = bus_table(METADATA)
inbox_table(METADATA)
EFFECTS = Table("effects", METADATA, Column("number", Integer, nullable=False))
BAD = 2


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/bus.db")
    await enable_wal(engine)
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
    yield engine
    await engine.dispose()


def registration(probe: Probe, topic: Topic = TOPIC) -> IntegrationEventBusRegistration:
    return IntegrationEventBusRegistration(probe, topic, [Numbered], retry=RetryPolicy(delay=0.01))


async def count(engine: AsyncEngine, table: Table) -> int:
    async with engine.connect() as connection:
        return (await connection.execute(select(func.count()).select_from(table))).scalar_one()


async def test_put_sends_with_the_commit_and_not_without(engine: AsyncEngine) -> None:
    probe = Probe("consumer")
    bus = SQLAlchemyBus(engine, [registration(probe)])
    async with bus:
        async with AsyncSession(engine) as session:
            await bus.outbox(session).put(TOPIC, Numbered(1))
            await session.rollback()
            await bus.outbox(session).put(TOPIC, Numbered(2))
            assert not probe.handled
            await session.commit()
        async with engine.begin() as connection:
            await SQLAlchemyOutbox(connection, table=BUS).put(TOPIC, Numbered(3), key="k")
        await eventually(lambda: probe.numbers == [2, 3])
    assert await count(engine, BUS) == 0
    assert [arrival.delivery.key for arrival in probe.arrivals] == [None, "k"]


async def test_put_writes_a_row_for_each_consumer_and_none_for_a_topic_without(
    engine: AsyncEngine,
) -> None:
    names = ["one", "two"]
    bus = SQLAlchemyBus(engine, [registration(Probe(name)) for name in names])
    async with bus:
        pass
    async with AsyncSession(engine) as session, session.begin():
        await bus.outbox(session).put(TOPIC, Numbered(1))
        await bus.outbox(session).put(Topic("nobodys"), Numbered(1))
    assert await count(engine, BUS) == len(names)


async def test_put_for_later_waits(engine: AsyncEngine) -> None:
    probe = Probe("consumer")
    bus = SQLAlchemyBus(engine, [registration(probe)], poll_interval=0.05)
    now = datetime.now(UTC)
    async with bus:
        async with AsyncSession(engine) as session, session.begin():
            outbox = bus.outbox(session)
            await outbox.put(TOPIC, Numbered(1), available_at=now + timedelta(hours=1))
            await outbox.put(TOPIC, Numbered(2), available_at=now + timedelta(milliseconds=500))
            await outbox.put(TOPIC, Numbered(3))
        await eventually(lambda: sorted(probe.numbers) == [2, 3], 30)
    assert await count(engine, BUS) == 1


async def test_a_missing_table_is_named_with_the_cure(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/empty.db")
    await enable_wal(engine)
    with pytest.raises(OutboxTableError, match=r"bus.*bus_table\(metadata\)"):
        await SQLAlchemyBus(engine).startup()
    async with engine.begin() as connection:
        with pytest.raises(OutboxTableError, match=r"bus_table\(metadata\)"):
            await SQLAlchemyOutbox(connection, table=BUS).put(TOPIC, Numbered(1))
    await engine.dispose()


async def test_a_handler_writes_in_the_transaction_that_removes_its_row(
    engine: AsyncEngine,
) -> None:
    async def write(event: IntegrationEvent) -> None:
        assert isinstance(event, Numbered)
        await current_session().execute(insert(EFFECTS), {"number": event.number})
        if event.number == BAD and probe.attempts != [1, 1, 2, 3]:
            raise RuntimeError("undo it")

    probe = Probe("consumer", write)
    bus = SQLAlchemyBus(engine, [registration(probe)], sessions=async_sessionmaker(engine))
    async with bus:
        await bus.send_many(TOPIC, [Numbered(1), Numbered(BAD)])
        await eventually(lambda: sorted(probe.numbers) == [1, BAD])
    async with engine.connect() as connection:
        written = (await connection.execute(select(EFFECTS.c.number))).scalars().all()
    assert sorted(written) == [1, BAD]
    assert await count(engine, BUS) == 0


async def test_a_handler_that_puts_has_its_events_sent_with_its_own(engine: AsyncEngine) -> None:
    then = Topic("then")

    async def put(event: IntegrationEvent) -> None:
        assert isinstance(event, Numbered)
        await bus.outbox(current_session()).put(then, Numbered(10 * event.number))
        if probe.attempts == [1]:
            raise RuntimeError("undo it")

    probe, later = Probe("consumer", put), Probe("later")
    registrations = [registration(probe), registration(later, then)]
    bus = SQLAlchemyBus(engine, registrations, sessions=async_sessionmaker(engine))
    async with bus:
        await bus.send(TOPIC, Numbered(4))
        await eventually(lambda: later.numbers == [40])
    assert await count(engine, BUS) == 0


async def test_an_inbox_beside_sessions_is_refused(engine: AsyncEngine) -> None:
    sessions = async_sessionmaker(engine)
    bus = SQLAlchemyBus(
        engine,
        [registration(Probe("consumer"))],
        sessions=sessions,
        middlewares=[SQLAlchemyInbox(sessions)],
    )
    with pytest.raises(InvalidTopologyError, match="leave the inbox out"):
        await bus.startup()


async def test_an_idle_bus_asks_for_all_its_consumers_at_once(engine: AsyncEngine) -> None:
    asked: Counter[str] = Counter()

    def listener(*given: object) -> None:
        asked[str(given[2]).partition(" ")[0]] += 1

    registrations = [registration(Probe(f"consumer{number}")) for number in range(100)]
    loop = asyncio.get_running_loop()
    async with SQLAlchemyBus(engine, registrations, poll_interval=0.5, lease=60.0) as bus:
        await asyncio.sleep(1)  # it polls less and less often after a start
        event.listen(engine.sync_engine, "before_cursor_execute", listener)
        began = loop.time()
        await asyncio.sleep(2)
        took = loop.time() - began
        assert asked, "it does not look at all"
        assert asked.total() <= took / 0.5 + 1, asked
        assert bus.health().healthy


def test_an_option_that_counts_deaths_apart_is_refused() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")

    with pytest.raises(UnsupportedByBusError, match="each death of a process counts as an attempt"):
        SQLAlchemyBus(engine, max_crashes=5)
