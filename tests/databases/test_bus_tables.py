"""What the bus on a database says of tables that are not as it made them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, event, inspect, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from events.errors import (
    BusUnavailableError,
    ConsumerStoppedError,
    OutboxTableError,
    SendOutcomeUnknownError,
)
from events.integration import IntegrationEventBusRegistration, RetryPolicy, Topic
from events.integration.implementation.sqlalchemy import bus_table
from events.integration.implementation.sqlalchemy._bus.pump import Pump
from events.integration.implementation.sqlalchemy._bus.rows import Rows
from events.integration.implementation.sqlalchemy._bus.seats import Seats
from events.integration.implementation.sqlalchemy._bus.sharing import Seat
from events.integration.implementation.sqlalchemy._bus.tables import BusTables
from events.recurring import Recurring
from events.sqlalchemy import SQLAlchemyBus
from events.testing import eventually
from events.testing.contracts import Numbered, Probe
from tests.databases.database import new_database

METADATA = MetaData()
TABLE = bus_table(METADATA)


@pytest.fixture(params=["sqlite+aiosqlite", "postgresql+asyncpg", "postgresql+psycopg"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    driver: str = request.param
    if driver.startswith("sqlite"):
        engine = create_async_engine(f"{driver}:///{tmp_path}/bus.db")
        yield engine
        await engine.dispose()
        return
    with new_database("postgresql") as database:
        engine = create_async_engine(database.url(driver))
        yield engine
        await engine.dispose()


async def test_a_lock_row_that_cannot_be_made_is_reported_after_two_tries(
    engine: AsyncEngine,
) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
        if engine.dialect.name == "sqlite":
            await connection.execute(text("DROP TABLE bus_members"))
            columns = "token TEXT, partitions TEXT, lease_seconds FLOAT, expires_at TEXT"
            checked = "member TEXT PRIMARY KEY CHECK (member <> '')"
            await connection.execute(text(f"CREATE TABLE bus_members ({checked}, {columns})"))
        else:
            column = "ADD COLUMN updated_by VARCHAR(30) NOT NULL"
            await connection.execute(text(f"ALTER TABLE bus_members {column}"))
    statements: list[str] = []

    def note(*args: object) -> None:
        statements.append(str(args[2]))

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    me = Seat("me", "token", {}, {}, 30.0, 0.0)
    with pytest.raises(OutboxTableError, match="lock one another out, .*(CHECK|updated_by)"):
        await Seats(engine, BusTables(TABLE)).take(me, {})
    assert len([each for each in statements if each.startswith("INSERT")]) == 2


async def made_with_a_required_column(engine: AsyncEngine, table: str) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
        columns = await connection.run_sync(lambda c: inspect(c).get_columns(table))
        if engine.dialect.name == "sqlite":  # which adds none that is required
            await connection.execute(text(f"DROP TABLE {table}"))
            names = ", ".join(column["name"] for column in columns if column["name"] != "id")
            number = "id INTEGER PRIMARY KEY, " if columns[0]["name"] == "id" else ""
            await connection.execute(
                text(f"CREATE TABLE {table} ({number}{names}, updated_by TEXT NOT NULL)")
            )
        else:
            column = "ADD COLUMN updated_by VARCHAR(30) NOT NULL"
            await connection.execute(text(f"ALTER TABLE {table} {column}"))


async def test_a_consumer_that_cannot_be_kept_is_an_error(engine: AsyncEngine) -> None:
    await made_with_a_required_column(engine, "bus_consumers")
    async with asyncio.timeout(60), SQLAlchemyBus(engine) as bus:
        with pytest.raises(OutboxTableError, match="consumer 'mails' of topic 'orders' .*updated"):
            await bus.register(consuming())
        with pytest.raises(OutboxTableError, match="that 'mails' is paused cannot be kept"):
            await bus.pause("mails")
        assert await bus.paused(["mails"]) == frozenset()


async def test_a_recurrence_that_cannot_be_kept_is_logged(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    await made_with_a_required_column(engine, "bus_recurring")
    daily = Recurring(
        "0 3 * * *", name="daily", topic=Topic("reports"), event=lambda _: Numbered(1)
    )
    async with asyncio.timeout(60), SQLAlchemyBus(engine, recurring=[daily]):
        await eventually(lambda: "'daily' cannot be kept in it" in caplog.text)


async def test_a_consumer_registered_while_the_database_is_away_raises_as_on_other_buses(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)

    async def away(*_: object) -> int:
        raise OperationalError("SELECT", None, ConnectionError("it is away"))

    async with SQLAlchemyBus(engine) as bus:
        monkeypatch.setattr(Rows, "consumer", away)
        with pytest.raises(BusUnavailableError, match="it is away"):
            await bus.register(consuming())


@pytest.mark.parametrize("verb", ["due", "settle", "to_dead_letters", "write"])
async def test_a_driver_that_cancels_what_it_should_fail_stops_nothing(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
    works: Any = getattr(Rows, verb)
    cancelled: list[object] = []

    def cancels(*args: Any, **options: Any) -> Any:
        if not cancelled:
            cancelled.append(args)
            raise asyncio.CancelledError
        return works(*args, **options)

    monkeypatch.setattr(Rows, verb, cancels)
    handled: set[int] = set()

    async def handle(event: Numbered) -> None:
        if event.number == 0:
            raise ValueError
        handled.add(event.number)

    async with asyncio.timeout(60), SQLAlchemyBus(engine, [consuming(handle)]) as bus:
        for number in range(20):
            with suppress(SendOutcomeUnknownError):
                await bus.send(Topic("orders"), Numbered(number))
        await eventually(lambda: handled >= set(range(1, 20)))
        await eventually(lambda: cancelled and bus.health().healthy)


@pytest.fixture
async def ending(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> AsyncEngine:
    """Return the engine, with its tables, for a bus whose loop ends at its first rest."""
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)

    async def ends(*_: object) -> None:
        raise _EndError

    monkeypatch.setattr(Pump, "_rest", ends)
    return engine


async def test_consumers_of_a_loop_that_ends_by_itself_end_too(ending: AsyncEngine) -> None:
    with pytest.raises(ConsumerStoppedError, match="mails"):
        async with asyncio.timeout(60):
            await SQLAlchemyBus(ending, [consuming()]).run(signals=())


async def test_a_consumer_that_joins_a_loop_that_has_ended_ends_too(ending: AsyncEngine) -> None:
    async with SQLAlchemyBus(ending) as bus:
        await eventually(lambda: not bus.health().connected)
        await bus.register(consuming())
        await eventually(lambda: not bus.health().consumers[0].alive)


class _EndError(BaseException):
    pass


async def ignore(event: Numbered) -> None:
    pass


def consuming(
    handler: Callable[[Numbered], Awaitable[None]] = ignore,
) -> IntegrationEventBusRegistration:
    retry = RetryPolicy(attempts=1)
    return IntegrationEventBusRegistration(
        Probe("mails", handler), Topic("orders"), [Numbered], retry=retry
    )


async def test_a_bus_reads_its_backlog_without_sorts_and_sends_one_event_in_one_statement(
    engine: AsyncEngine,
) -> None:
    if engine.dialect.name != "postgresql":
        pytest.skip("only PostgreSQL chooses between a walk along the index and a sort")
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
    statements: list[str] = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def note(*args: object) -> None:
        statements.append(str(args[2]))

    topic, probe = Topic("read"), Probe("reader")
    registration = IntegrationEventBusRegistration(probe, topic, [Numbered], concurrency=500)
    async with SQLAlchemyBus(engine, [registration]) as bus:
        await bus.send(topic, Numbered(0))
        await eventually(lambda: len(probe.numbers) == 1)
        assert not any(each.startswith("SET LOCAL") for each in statements)
        (writing,) = (each for each in statements if each.startswith("INSERT INTO bus ("))
        assert "SELECT" in writing
        await bus.unregister(registration)
        await bus.send_many(topic, map(Numbered, range(1, 3_000)))
        statements.clear()
        await bus.register(registration)
        await eventually(lambda: len(probe.numbers) == 3_000)
    assert statements.count("SET LOCAL enable_sort = off") >= 2
