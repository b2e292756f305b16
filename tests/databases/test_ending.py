"""What is stopped lets the call that it makes to the database end, which else costs a connection."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, event, func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.pool import QueuePool
from sqlalchemy.util import await_only

from events.errors import OutboxError
from events.integration import OutboxRelay, Topic
from events.integration.implementation.sqlalchemy import _postgresql
from events.integration.implementation.sqlalchemy._bus.rows import Rows
from events.integration.implementation.sqlalchemy._bus.seats import Seats
from events.integration.pipeline import cancelling, pausing
from events.integration.pipeline.cancelling import Background, answered, ended
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
from tests.databases.database import new_engine
from tests.databases.test_bus_tables import consuming

DRIVERS = ["sqlite+aiosqlite", "postgresql+asyncpg", "postgresql+psycopg", "mariadb+asyncmy"]
DEADLINE = 120.0

METADATA = MetaData()
for make in (bus_table, outbox_table, inbox_table, journal_table):
    make(METADATA)


@pytest.fixture(params=DRIVERS)
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with new_engine(request.param, tmp_path, METADATA) as engine:
        yield engine


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a stop wait for a query however slow the machine is, and look for marks at once."""
    monkeypatch.setattr(cancelling, "_LONGEST", DEADLINE)
    monkeypatch.setattr(pausing, "LOOK_EVERY", 0.01)


async def turns() -> None:
    """Let the loop go round as often as a stop needs to come to where it waits."""
    for _ in range(50):
        await asyncio.sleep(0)


class Held:
    """Holds a statement, from the moment that it is made, until it is let go."""

    def __init__(self, engine: AsyncEngine, part: str) -> None:
        self.asked, self.go = asyncio.Event(), asyncio.Event()
        self._part = part
        event.listen(engine.sync_engine, "before_cursor_execute", self._hold)

    def _hold(self, *args: Any) -> None:
        statement: str = args[2]
        if self._part in statement:
            self.asked.set()
            await_only(self.go.wait())


def lost_connections(engine: AsyncEngine) -> list[object]:
    lost: list[object] = []
    event.listen(engine.sync_engine.pool, "invalidate", lambda *args: lost.append(args))
    return lost


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
) -> None:
    async with asyncio.timeout(DEADLINE), AsyncExitStack() as stack:
        await stack.enter_async_context(running(engine))
        held, lost = Held(engine, asks), lost_connections(engine)
        await held.asked.wait()
        stopping = asyncio.create_task(stack.pop_all().aclose())
        await turns()
        assert not stopping.done()
        held.go.set()
        await stopping
    assert lost == []


async def test_a_stop_comes_between_two_batches_of_what_the_journal_removes(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("events.integration.implementation.sqlalchemy.journal._BATCH", 1)
    journal = SQLAlchemyJournal(engine, flush_every=0.001, max_rows=1)
    now = datetime.now(UTC)
    filled = dict.fromkeys(("what", "correlation_id", "event_id", "type", "topic", "process"), "x")
    rows = [filled | {"at": now} for _ in range(20)]
    table = METADATA.tables["journal"]
    async with engine.begin() as connection:
        await connection.execute(insert(table), rows)
    held = Held(engine, "DELETE FROM journal")
    async with asyncio.timeout(DEADLINE), AsyncExitStack() as stack:
        await stack.enter_async_context(journal)
        await held.asked.wait()
        stopping = asyncio.create_task(stack.pop_all().aclose())
        await turns()
        held.go.set()
        await stopping
    async with engine.connect() as connection:
        assert (await connection.execute(select(func.count()).select_from(table))).scalar() == 19


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


class Call:
    """A call that never returns, and closes its connection when it is cancelled, as drivers do."""

    def __init__(self) -> None:
        self.begun, self.cancelled, self.go = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.closed = False

    async def __call__(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
            await self.go.wait()
            self.closed = True


async def test_a_task_that_cancels_a_call_itself_is_not_cancelled_again() -> None:
    call = Call()
    task = asyncio.create_task(answered(call(), 0.001))
    async with asyncio.timeout(DEADLINE):
        await call.cancelled.wait()
        ending = asyncio.create_task(ended(task))
        await turns()
        call.go.set()
        await ending
    assert call.closed
    assert isinstance(task.exception(), OutboxError)


async def test_a_task_that_is_cancelled_is_not_cancelled_again_by_its_timeout() -> None:
    call, loop = Call(), asyncio.get_running_loop()
    task = asyncio.create_task(answered(call(), 0.05))
    ending = asyncio.create_task(ended(task))  # begins right after it, before the timeout can end
    async with asyncio.timeout(DEADLINE):
        await call.cancelled.wait()
        loop.call_at(loop.time() + 0.05, call.go.set)  # later than the timeout, by the same clock
        await ending
    assert call.closed
    assert task.cancelled()


async def test_a_timeout_leaves_its_task_as_it_was() -> None:
    with pytest.raises(OutboxError, match=r"not answered for 0\.01 s"):
        await answered(asyncio.Event().wait(), 0.01)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
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
    held = Held(engine, "handled_at <")
    inbox = SQLAlchemyInbox(async_sessionmaker(engine), purge_every=0.001)
    async with asyncio.timeout(DEADLINE):
        await inbox.startup()
        await held.asked.wait()
        stopping = asyncio.create_task(inbox.shutdown())
        await turns()
        await inbox.startup()
        held.go.set()
        await stopping
        held.asked.clear()
        await held.asked.wait()
        await inbox.shutdown()


class SlowToPurge(SQLAlchemyOutboxStore):
    """One whose purge ends when the test lets it, as slowly if it is cancelled."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine)
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def purge(self, older_than: timedelta, *, limit: int) -> int:
        self.asked.set()
        try:
            await self.go.wait()
        finally:
            await self.go.wait()
        return 0


@asynccontextmanager
async def purging(engine: AsyncEngine) -> AsyncGenerator[OutboxRelay]:
    """Yield a relay in the middle of a purge, then end both, and see that they leave no task."""
    store = SlowToPurge(engine)
    async with asyncio.timeout(DEADLINE), MemoryBus() as bus:
        before = asyncio.all_tasks()
        relay = OutboxRelay(store, bus, keep_parked=timedelta(days=1))
        await relay.startup()
        await store.asked.wait()
        yield relay
        stopping = asyncio.create_task(relay.shutdown())
        await turns()
        assert not stopping.done()  # it waits for the purge
        store.go.set()
        await stopping
        assert asyncio.all_tasks() == before


async def cancel_twice(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


async def test_a_cancelled_shutdown_of_a_relay_is_made_up_for_by_the_next(
    engine: AsyncEngine,
) -> None:
    async with purging(engine) as relay:
        stopping = asyncio.create_task(relay.shutdown(grace=0))
        await eventually(lambda: relay._task is None)  # it waits for the purge
        await cancel_twice(stopping)


async def test_a_cancelled_startup_leaves_no_relay_that_runs(
    engine: AsyncEngine,
) -> None:
    async with purging(engine) as relay:
        relay._relay_loop.stop()  # it ends by itself, and the purge beside it goes on
        await eventually(lambda: not relay.health().alive)
        starting = asyncio.create_task(relay.startup())
        await eventually(lambda: relay._besides[-1]._ending is not None)  # it waits for the purge
        await cancel_twice(starting)
        assert not relay.health().alive


@pytest.mark.parametrize("engine", ["postgresql+asyncpg", "postgresql+psycopg"], indirect=True)
async def test_a_notification_that_hangs_is_given_up_with_its_connection(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_postgresql, "_LONGEST_SEND", 0.01)
    held, lost = Held(engine, "pg_notify"), lost_connections(engine)
    pool = engine.sync_engine.pool
    assert isinstance(pool, QueuePool)
    async with asyncio.timeout(DEADLINE):
        _postgresql.notify(engine.sync_engine, "events.tests")
        await held.asked.wait()
        await eventually(lambda: bool(lost) and pool.checkedout() == 0)


async def test_a_task_that_closes_for_too_long_is_cancelled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cancelling, "_CLOSING", 0.01)
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


async def holding(call: Call, lock: asyncio.Lock) -> None:
    async with lock:
        await call()


async def test_a_call_that_takes_too_long_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancelling, "_LONGEST", 0.01)
    call = Call()
    call.go.set()
    background = Background(partial(holding, call))
    async with asyncio.timeout(DEADLINE):
        await call.begun.wait()
        await asyncio.gather(background.end(), background.end())
        await background.end()
    assert call.closed


async def test_a_stop_that_is_cancelled_itself_waits_for_no_call() -> None:
    call = Call()
    call.go.set()
    background = Background(partial(holding, call))
    async with asyncio.timeout(DEADLINE / 2):
        await call.begun.wait()
        ending = asyncio.create_task(background.end())
        await turns()
        assert not ending.done()
        ending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ending
    assert call.closed


def test_one_of_another_loop_is_let_be() -> None:
    async def run(lock: asyncio.Lock) -> None:
        await asyncio.Event().wait()

    async def started() -> Background:
        return Background(run)

    with asyncio.Runner() as one, asyncio.Runner() as other:
        background = one.run(started())
        other.run(background.end())
        assert not background._task.cancelling()
