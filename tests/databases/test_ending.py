"""What is stopped lets the call that it makes to the database end, which else costs a connection."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, event
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.util import await_only

from events.integration import OutboxRelay
from events.integration.pipeline.lifecycle import Background, ended
from events.memory import MemoryBus
from events.sqlalchemy import (
    SQLAlchemyBus,
    SQLAlchemyInbox,
    SQLAlchemyJournal,
    SQLAlchemyOutboxStore,
    bus_table,
    enable_wal,
    inbox_table,
    journal_table,
    outbox_table,
)
from tests.databases.database import new_database

DRIVERS = ["sqlite+aiosqlite", "postgresql+asyncpg", "postgresql+psycopg", "mariadb+asyncmy"]
DEADLINE = 120.0

METADATA = MetaData()
for make in (bus_table, outbox_table, inbox_table, journal_table):
    make(METADATA)


@pytest.fixture(params=DRIVERS)
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    kind, _, _ = request.param.partition("+")
    if kind == "sqlite":
        engine = create_async_engine(f"{request.param}:///{tmp_path}/ending.db")
        await enable_wal(engine)
        async with engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)
        yield engine
        await engine.dispose()
        return
    with new_database(kind) as database:
        engine = create_async_engine(database.url(request.param))
        async with engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)
        yield engine
        await engine.dispose()


@asynccontextmanager
async def relaying(engine: AsyncEngine) -> AsyncGenerator[None]:
    store = SQLAlchemyOutboxStore(engine)
    async with MemoryBus() as bus, OutboxRelay(store, bus, keep_parked=timedelta(days=1)):
        yield


@asynccontextmanager
async def deduplicating(engine: AsyncEngine) -> AsyncGenerator[None]:
    inbox = SQLAlchemyInbox(async_sessionmaker(engine), purge_every=0.001)
    await inbox.startup()
    yield
    await inbox.shutdown()


@pytest.mark.parametrize(
    ("running", "asks"),
    [
        pytest.param(SQLAlchemyBus, "FROM bus_scheduled", id="schedules of the bus"),
        pytest.param(relaying, "FROM outbox_scheduled", id="schedules of the outbox"),
        pytest.param(relaying, "parked_at <", id="parked rows"),
        pytest.param(deduplicating, "handled_at <", id="the inbox's rows"),
        pytest.param(
            lambda engine: SQLAlchemyJournal(engine, flush_every=0.001),
            "FROM journal",
            id="the journal's rows",
        ),
    ],
)
async def test_a_stop_breaks_no_query_off(
    engine: AsyncEngine,
    running: Callable[[AsyncEngine], AbstractAsyncContextManager[Any]],
    asks: str,
) -> None:
    asking, answered = asyncio.Event(), asyncio.Event()
    lost: list[object] = []

    def hold(*args: Any) -> None:
        statement: str = args[2]
        if asks in statement:
            asking.set()
            await_only(answered.wait())

    async with asyncio.timeout(DEADLINE):
        async with running(engine):
            event.listen(engine.sync_engine, "before_cursor_execute", hold)
            event.listen(engine.sync_engine.pool, "invalidate", lambda *args: lost.append(args))
            await asking.wait()
            asyncio.get_running_loop().call_later(0.05, answered.set)  # in the middle of the stop
        assert answered.is_set()
    assert lost == []


async def test_a_bus_whose_file_is_locked_by_another_process_leaves_nothing_that_never_ends(
    tmp_path: Path,
) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/locked.db")
    await enable_wal(engine)
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
    async with asyncio.timeout(DEADLINE):
        async with SQLAlchemyBus(engine):
            locking = sqlite3.connect(tmp_path / "locked.db", isolation_level=None)
            locking.execute("BEGIN IMMEDIATE")
        locking.close()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left
    await engine.dispose()


async def test_a_task_that_cancels_a_call_itself_is_not_cancelled_again() -> None:
    cancelled, closed, go = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def call() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
            await go.wait()  # as a driver that closes its connection
            closed.set()

    async def run() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0):
                await call()

    task = asyncio.create_task(run())
    async with asyncio.timeout(DEADLINE):
        await cancelled.wait()
        ending = asyncio.create_task(ended(task))
        await asyncio.sleep(0)
        go.set()
        await ending
    assert closed.is_set()


async def test_a_task_that_closes_for_too_long_is_cancelled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("events.integration.pipeline.lifecycle._CLOSING", 0.01)
    running = asyncio.Event()

    async def run() -> None:
        try:
            running.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    async with asyncio.timeout(DEADLINE):
        await running.wait()
        await ended(task)
    assert task.cancelled()


async def test_a_call_that_takes_too_long_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("events.integration.pipeline.lifecycle._LONGEST", 0.01)
    calling, cancelled = asyncio.Event(), asyncio.Event()

    async def run(lock: asyncio.Lock) -> None:
        async with lock:
            calling.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    background = Background(run)
    async with asyncio.timeout(DEADLINE):
        await calling.wait()
        await background.end()
    assert cancelled.is_set()


async def test_a_stop_that_is_cancelled_itself_waits_no_longer() -> None:
    calling, cancelled = asyncio.Event(), asyncio.Event()

    async def run(lock: asyncio.Lock) -> None:
        async with lock:
            calling.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    background = Background(run)
    async with asyncio.timeout(DEADLINE):
        await calling.wait()
        ending = asyncio.create_task(background.end())
        await asyncio.sleep(0)
        ending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ending
    assert cancelled.is_set()


def test_one_of_a_loop_that_has_ended_is_let_be() -> None:
    async def run(lock: asyncio.Lock) -> None:
        await asyncio.Event().wait()

    async def started() -> Background:
        return Background(run)

    async def end(background: Background) -> None:
        await background.end()

    asyncio.run(end(asyncio.run(started())))
