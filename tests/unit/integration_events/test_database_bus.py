"""The bus on a database: sending in a transaction, and handling in one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from inspect import signature
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import sqlalchemy
from alembic import op
from alembic.autogenerate import compare_metadata, produce_migrations, render_python_code
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    Table,
    create_engine,
    event,
    func,
    insert,
    select,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from events.errors import InvalidTopologyError, OutboxTableError
from events.integration import IntegrationEvent, IntegrationEventBusRegistration, Topic
from events.integration.implementation.sqlalchemy._bus.publishing import Publisher
from events.integration.implementation.sqlalchemy._bus.settling import Settler
from events.integration.topology import RetryPolicy
from events.sqlalchemy import (
    SQLAlchemyBus,
    SQLAlchemyInbox,
    SQLAlchemyOutbox,
    bus_table,
    current_session,
    enable_wal,
    inbox_table,
    outbox_table,
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
    with pytest.raises(InvalidTopologyError, match="omit the inbox"):
        await bus.startup()


async def test_an_idle_bus_asks_for_all_its_consumers_at_once(engine: AsyncEngine) -> None:
    consumers, asked, looks = 100, list[str](), 4
    seen = asyncio.Event()

    def is_look(statement: str) -> bool:
        return len(re.findall(r"FROM bus\s", statement)) == consumers

    def listener(*given: object) -> None:
        asked.append(str(given[2]))
        if sum(map(is_look, asked)) == looks:
            seen.set()

    names = [f"consumer{number}" for number in range(consumers)]
    async with engine.begin() as connection:  # started one by one, each would wait for the disk
        rows = [{"topic": TOPIC.name, "consumer": name} for name in names]
        await connection.execute(insert(METADATA.tables["bus_consumers"]), rows)
    registrations = [registration(Probe(name)) for name in names]
    async with SQLAlchemyBus(engine, registrations, poll_interval=0.05, lease=60.0):
        event.listen(engine.sync_engine, "before_cursor_execute", listener)
        await seen.wait()
    about_rows = [each for each in asked if re.search(r"FROM bus\s", each)]
    assert list(map(is_look, about_rows[-2:])) == [True, True], "it asks for one consumer alone"


def test_by_default_it_looks_less_than_once_in_a_second() -> None:
    interval: object = signature(SQLAlchemyBus).parameters["poll_interval"].default
    assert isinstance(interval, float)
    assert interval > 1.0


@pytest.mark.parametrize("make", [bus_table, outbox_table, inbox_table])
def test_what_alembic_writes_for_the_tables_is_python(make: Callable[[MetaData], Table]) -> None:
    metadata = MetaData()
    make(metadata)
    engine = create_engine("sqlite://")
    with ExitStack() as stack:
        stack.callback(engine.dispose)
        connection = stack.enter_context(engine.connect())
        context = MigrationContext.configure(connection)
        written = produce_migrations(context, metadata).upgrade_ops
        assert written is not None
        revision = render_python_code(written, migration_context=context)
        with Operations.context(context):
            exec(dedent(f"    {revision}"), {"sa": sqlalchemy, "op": op, "mysql": mysql})
        assert compare_metadata(context, metadata) == []


async def test_what_is_overdue_at_the_first_start_goes_to_all_consumers(
    engine: AsyncEngine,
) -> None:
    probes = [Probe(f"consumer{number}") for number in range(20)]
    bus = SQLAlchemyBus(engine, [registration(probe) for probe in probes])
    past = datetime(2020, 1, 1, tzinfo=UTC)
    async with AsyncSession(engine) as session:
        outbox = bus.outbox(session)
        await outbox.put(TOPIC, Numbered(1), available_at=past, schedule_id="overdue")
        await outbox.put(TOPIC, Numbered(2), available_at=past, schedule_id="cancelled")
        assert await outbox.cancel("cancelled")
        await session.commit()
    async with bus:
        await eventually(lambda: all(probe.handled for probe in probes))
        async with bus.scheduling() as later:
            assert await later.scheduled() == []
            assert not await later.cancel("overdue")
    assert [[each.number for each in probe.handled] for probe in probes] == [[1]] * 20


@pytest.mark.parametrize("waits", [Publisher, Settler])
async def test_a_close_that_is_cancelled_leaves_nothing_running(
    engine: AsyncEngine, waits: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its seat would be renewed, and its partitions be nobody's."""
    bus = SQLAlchemyBus(engine)
    await bus.startup()
    transport: Any = bus.transport
    pump, waiting = transport._pump, asyncio.Event()

    async def never(_: object) -> None:
        waiting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(waits, "close", never)
    closing = asyncio.create_task(transport.close())
    await waiting.wait()
    closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
    assert pump._task.done()
