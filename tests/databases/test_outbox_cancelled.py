"""A store that is cancelled while it opens a connection, or whose server goes away meanwhile."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from sqlalchemy import MetaData, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool
from sqlalchemy.util import await_only

from events.integration import OutboxRelay
from events.integration.implementation.memory import InMemoryIntegrationEventBus
from events.integration.implementation.sqlalchemy import (
    SQLAlchemyOutboxStore,
    outbox_table,
)
from events.integration.implementation.sqlalchemy._opening import at_level, connected
from events.integration.pipeline.cancelling import failure_of
from tests.databases.database import new_engine

DRIVERS = ["sqlite+aiosqlite", "postgresql+asyncpg", "postgresql+psycopg", "mariadb+asyncmy"]
DEADLINE = 120.0

METADATA = MetaData()
outbox_table(METADATA)


@pytest.fixture(params=DRIVERS)
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with new_engine(request.param, tmp_path, METADATA) as engine:
        yield engine


class Held:
    """Holds who sets the isolation level of a connection, which is done while it is opened."""

    def __init__(self, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = asyncio.Event()
        self.released = asyncio.Event()
        dialect = engine.sync_engine.dialect
        set_it = dialect.set_isolation_level

        def held(connection: Any, level: Any) -> None:
            self.reached.set()
            await_only(self.released.wait())
            set_it(connection, level)

        monkeypatch.setattr(dialect, "set_isolation_level", held)


@pytest.fixture
async def held(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(engine, monkeypatch)


async def nothing_is_left(engine: AsyncEngine, caplog: pytest.LogCaptureFixture) -> None:
    pool = engine.sync_engine.pool
    assert isinstance(pool, QueuePool)
    async with asyncio.timeout(DEADLINE):
        while pool.checkedout():
            gc.collect()
            await asyncio.sleep(0.001)
    gc.collect()
    assert [r.getMessage() for r in caplog.records if r.name.startswith("sqlalchemy")] == []


@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancelled_question_gives_its_connection_back(
    engine: AsyncEngine, held: Held, caplog: pytest.LogCaptureFixture, times: int
) -> None:
    asking = asyncio.create_task(SQLAlchemyOutboxStore(engine).parked(limit=1, after=None))
    async with asyncio.timeout(DEADLINE):
        await held.reached.wait()
        for _ in range(times):
            asking.cancel()
            await asyncio.sleep(0)
        held.released.set()
        with pytest.raises(asyncio.CancelledError):
            await asking
    await nothing_is_left(engine, caplog)


async def test_a_relay_past_its_grace_gives_its_connection_back(
    engine: AsyncEngine, held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    held.released.set()
    async with InMemoryIntegrationEventBus() as bus, asyncio.timeout(DEADLINE):
        relay = OutboxRelay(SQLAlchemyOutboxStore(engine), bus, poll_interval=0.01, lease=0.1)
        await relay.startup()
        held.released.clear()
        held.reached.clear()
        await held.reached.wait()
        ending = asyncio.create_task(relay.shutdown(grace=0))
        await asyncio.sleep(0)
        held.released.set()
        await ending
    await nothing_is_left(engine, caplog)


async def test_a_server_that_is_gone_while_one_opens_is_an_error_that_leaves_nothing(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    driver = engine.dialect.loaded_dbapi

    def gone(_connection: object, _level: object) -> None:
        raise driver.OperationalError("the server has gone away")

    with monkeypatch.context() as patched:
        patched.setattr(engine.sync_engine.dialect, "set_isolation_level", gone)
        with pytest.raises(OperationalError, match="gone away") as raised:
            async with connected(at_level(engine, "AUTOCOMMIT")):
                pytest.fail("it was never opened")
    assert raised.value.connection_invalidated
    assert isinstance(engine.pool, QueuePool)
    assert engine.pool.checkedout() == 0
    async with connected(at_level(engine, "AUTOCOMMIT")) as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar() == 1
    await nothing_is_left(engine, caplog)


async def test_an_opening_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("events.integration.implementation.sqlalchemy._opening._LONGEST", 0.01)
    reached, cancelled = asyncio.Event(), asyncio.Event()

    class Hanging:
        async def connect(self) -> AsyncConnection:
            reached.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            raise AssertionError

    async def ask() -> None:
        engine: Any = Hanging()
        async with connected(engine):
            pytest.fail("it was never opened")

    asking = asyncio.create_task(ask())
    async with asyncio.timeout(DEADLINE):
        await reached.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert cancelled.is_set()


async def test_a_cancelled_query_leaves_no_lock_on_sqlite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not in WAL mode, in which who reads is in nobody's way.
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/outbox.db")
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
    executes = aiosqlite.Cursor.execute

    async def cancelled(*args: Any) -> aiosqlite.Cursor:
        cursor = await executes(*args)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.sleep(0)
            return cursor
        finally:
            del args, cursor

    async def ask() -> None:
        try:
            async with connected(engine) as connection:
                await connection.execute(text("SELECT 1 FROM sqlite_master"))  # reads several rows
        except asyncio.CancelledError as error:
            failure_of(error)

    gc.disable()
    try:
        with monkeypatch.context() as patched:
            patched.setattr(aiosqlite.Cursor, "execute", cancelled)
            with pytest.raises(asyncio.CancelledError):
                await asyncio.create_task(ask())
        async with engine.connect() as connection:
            await connection.execute(text("PRAGMA busy_timeout = 0"))
            await connection.execute(text("DELETE FROM outbox"))
            await connection.commit()
    finally:
        gc.enable()
        await engine.dispose()
