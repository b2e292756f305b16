"""What is given to the outbox by mistake, and what it says then."""

import math
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, create_engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from events.errors import OutboxError
from events.integration import OutboxRelay
from events.integration.implementation.memory import InMemoryIntegrationEventBus
from events.integration.implementation.sqlalchemy import (
    SQLAlchemyOutbox,
    SQLAlchemyOutboxStore,
    enable_wal,
    outbox_table,
)
from events.integration.outbox import Parked
from events.integration.topology import Topic
from tests.unit.integration_events.outbox_table import Numbered, Table


class Base(DeclarativeBase):
    pass


async def test_a_sync_engine_has_no_wal_to_enable(tmp_path: Path) -> None:
    engine: Any = create_engine(f"sqlite:///{tmp_path}/a.db")
    with pytest.raises(TypeError, match="needs an AsyncEngine, not Engine: from sqlalchemy.ext"):
        await enable_wal(engine)


async def test_a_database_in_memory_has_no_wal() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    with pytest.raises(OutboxError, match="needs to be a database in a file, as in sqlite"):
        await enable_wal(engine)
    await engine.dispose()


async def test_other_databases_need_no_wal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/a.db")
    monkeypatch.setattr(engine.dialect, "name", "postgresql")
    with pytest.raises(OutboxError, match="is not a SQLite database: omit enable_wal"):
        await enable_wal(engine)


def test_a_declarative_base_is_not_its_metadata() -> None:
    given: Any = Base
    with pytest.raises(
        TypeError, match=r"needs a MetaData, not the class Base: pass Base.metadata"
    ):
        outbox_table(given)
    given = "outbox"
    with pytest.raises(TypeError, match=r"needs a MetaData, not 'outbox'$"):
        outbox_table(given)


@pytest.mark.parametrize("given", ["amqp://localhost", InMemoryIntegrationEventBus])
def test_a_relay_needs_a_bus(given: Any) -> None:
    # It would have parked all rows, as its `send` fails.
    with pytest.raises(
        TypeError, match="OutboxRelay: the second argument must be a bus, an instance of Integ"
    ):
        OutboxRelay(Table(), given)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("retry", 5, "a RetryPolicy, not 5: as in retry=RetryPolicy(attempts=3)"),
        ("keep_parked", 7, "a timedelta, not 7: as in keep_parked=timedelta(days=30)"),
        ("lease", "30", "a number, not '30': set seconds, as in lease=30"),
        ("lease", True, "a number, not True: set seconds, as in lease=30"),
        (
            "lease",
            timedelta(minutes=1),
            "a number, not datetime.timedelta(seconds=60): set seconds, as in lease=60",
        ),
        ("poll_interval", None, "a number, not None: set seconds, as in poll_interval=2"),
        ("send_timeout", "1", "a number, not '1': set seconds, as in send_timeout=30"),
        ("lag_warning", "60", "a number, not '60': set seconds, as in lag_warning=60"),
        ("shutdown_grace", "5", "a number, not '5': set seconds, as in shutdown_grace=10"),
        ("batch", 1.5, "a whole number, not 1.5: set the number of rows to send at once"),
        (
            "batch_bytes",
            1.5,
            "a whole number, not 1.5: set the bytes of bodies to read at once",
        ),
        ("batches_in_flight", True, "1 or 2, not True: set 1 if a repeat does harm"),
        ("batch", True, "a whole number, not True: set the number of rows to send at once"),
        ("name", 7, 'a string, as in name="orders-1", not 7; or omit it'),
    ],
)
def test_options_of_another_type_are_refused_at_once(option: str, value: Any, says: str) -> None:
    with pytest.raises(TypeError, match=re.escape(f"OutboxRelay: {option} must be {says}")):
        OutboxRelay(Table(), InMemoryIntegrationEventBus(), **{option: value})


async def test_options_at_the_edge_are_taken() -> None:
    relay = OutboxRelay(
        Table(),
        InMemoryIntegrationEventBus(),
        name="x" * 255,
        lease=1,
        batch=1,
        send_timeout=math.inf,
        lag_warning=math.inf,
        shutdown_grace=0,
    )
    assert not relay.health().started


async def test_the_name_of_a_table_is_not_the_table() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    name: Any = "outbox"
    says = r"table= must be the result of outbox_table\(metadata\), not 'outbox'"
    with pytest.raises(TypeError, match=says):
        SQLAlchemyOutbox(AsyncSession(engine), table=name)
    with pytest.raises(TypeError, match=says):
        SQLAlchemyOutboxStore(engine, table=name)


async def test_a_delay_is_no_time() -> None:
    delay: Any = timedelta(hours=1)
    async with AsyncSession(create_async_engine("sqlite+aiosqlite://")) as session:
        with pytest.raises(TypeError, match="available_at must be a datetime, not datetime.timed"):
            await SQLAlchemyOutbox(session).put(Topic("a"), Numbered(1), available_at=delay)


async def test_parking_is_one_transaction_on_an_engine_that_commits_each_statement(
    tmp_path: Path,
) -> None:
    metadata = MetaData()
    outbox_table(metadata)
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{tmp_path}/a.db", isolation_level="AUTOCOMMIT"
    )
    async with engine.connect() as connection:
        await connection.run_sync(metadata.create_all)
        await SQLAlchemyOutbox(connection).put(Topic("a"), Numbered(1))
        await connection.execute(
            text("CREATE TRIGGER keep BEFORE DELETE ON outbox BEGIN SELECT RAISE(ABORT, 'no'); END")
        )
    store = SQLAlchemyOutboxStore(engine)
    with pytest.raises(IntegrityError):
        await store.park([Parked(1, "reason", "error", 8)])
    assert await store.parked(limit=9, after=None) == []
    assert (await store.backlog()).pending == 1
    await engine.dispose()


async def test_the_schema_that_an_engine_translates_to_is_looked_into(tmp_path: Path) -> None:
    plain = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/a.db")
    engine = plain.execution_options(schema_translate_map={"shop": None})
    metadata = MetaData()
    table = outbox_table(metadata, schema="shop")
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await SQLAlchemyOutboxStore(engine, table=table).check()
    await plain.dispose()


def test_a_relay_needs_a_store() -> None:
    bus = InMemoryIntegrationEventBus()
    given: Any = create_async_engine("sqlite+aiosqlite://")
    with pytest.raises(
        TypeError, match=r"such as SQLAlchemyOutboxStore\(engine\), not AsyncEngine"
    ):
        OutboxRelay(given, bus)
    given = bus
    with pytest.raises(
        TypeError, match="first argument must be an OutboxStore, .* not InMemoryIntegrationEve"
    ):
        OutboxRelay(given, given)
