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
from sqlalchemy import MetaData, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.util import await_only

from events.errors import OutboxError
from events.integration import OutboxRelay, Topic
from events.integration.implementation.sqlalchemy._bus.rows import Rows
from events.integration.implementation.sqlalchemy._bus.seats import Seats
from events.integration.pipeline.lifecycle import Background, answered, ended
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
from events.testing import eventually
from events.testing.contracts import Numbered
from tests.databases.database import new_database
from tests.databases.test_bus_tables import consuming

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
            lambda engine: SQLAlchemyBus(engine, [consuming()]),
            "consumer IN (",
            id="paused consumers",
        ),
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
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("events.integration.pipeline.pausing.LOOK_EVERY", 0.01)
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


async def test_a_task_that_is_cancelled_is_not_cancelled_again_by_its_timeout() -> None:
    called, go, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def call() -> None:
        called.set()
        try:
            await asyncio.Event().wait()
        finally:
            await go.wait()  # as a driver that closes its connection
            closed.set()

    task = asyncio.create_task(answered(call(), 0.05))
    async with asyncio.timeout(DEADLINE):
        await called.wait()
        ending = asyncio.create_task(ended(task))
        asyncio.get_running_loop().call_later(0.1, go.set)
        await ending
    assert closed.is_set()
    assert task.cancelled()


async def test_a_timeout_leaves_its_task_as_it_was() -> None:
    with pytest.raises(OutboxError, match=r"not answered for 0\.01 s"):
        await answered(asyncio.Event().wait(), 0.01)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0.02)
    assert await answered(asyncio.sleep(0, "in time"), 60) == "in time"


async def test_a_bus_that_stops_after_an_outage_gives_its_partitions_up(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(DEADLINE), SQLAlchemyBus(engine, [consuming()]) as bus:
        await eventually(lambda: bus.health().connected)

        async def away(*_: object) -> object:
            raise OSError("it is away")

        with monkeypatch.context() as patched:
            patched.setattr(Seats, "take", away)
            patched.setattr(Rows, "due", away)
            patched.setattr(Rows, "waiting", away)
            await bus.send(Topic("orders"), Numbered(1))
            await eventually(lambda: not bus.health().connected)
    async with engine.connect() as connection:
        members = text("SELECT member FROM bus_members WHERE member <> ''")
        assert (await connection.execute(members)).all() == []


async def test_an_inbox_that_is_used_again_while_it_stops_purges(engine: AsyncEngine) -> None:
    asking, answering = asyncio.Event(), asyncio.Event()

    def hold(*args: Any) -> None:
        statement: str = args[2]
        if "handled_at <" in statement:
            asking.set()
            await_only(answering.wait())

    event.listen(engine.sync_engine, "before_cursor_execute", hold)
    inbox = SQLAlchemyInbox(async_sessionmaker(engine), purge_every=0.001)
    async with asyncio.timeout(DEADLINE):
        await inbox.startup()
        await asking.wait()
        stopping = asyncio.create_task(inbox.shutdown())
        await asyncio.sleep(0)
        await inbox.startup()
        answering.set()
        await stopping
        asking.clear()
        await asking.wait()
        await inbox.shutdown()


class SlowToPurge(SQLAlchemyOutboxStore):
    """One whose purge ends when the test lets it."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine)
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def purge(self, older_than: timedelta, *, limit: int) -> int:
        self.asked.set()
        await self.go.wait()
        return 0


async def test_a_cancelled_shutdown_of_a_relay_is_made_up_for_by_the_next(
    engine: AsyncEngine,
) -> None:
    store = SlowToPurge(engine)
    async with asyncio.timeout(DEADLINE), MemoryBus() as bus:
        before = asyncio.all_tasks()
        relay = OutboxRelay(store, bus, keep_parked=timedelta(days=1))
        await relay.startup()
        await store.asked.wait()
        for _ in range(2):
            stopping = asyncio.create_task(relay.shutdown())
            await asyncio.sleep(0.05)
            stopping.cancel()
            await asyncio.sleep(0)
            stopping.cancel()
            await asyncio.wait([stopping])
        store.go.set()
        await relay.shutdown()
        assert asyncio.all_tasks() == before


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


async def test_a_call_that_takes_too_long_is_cancelled() -> None:
    calling, cancelled = asyncio.Event(), asyncio.Event()

    async def run(lock: asyncio.Lock) -> None:
        async with lock:
            calling.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    background = Background(run, patience=0.01)
    async with asyncio.timeout(DEADLINE):
        await calling.wait()
        await asyncio.gather(background.end(), background.end())
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
