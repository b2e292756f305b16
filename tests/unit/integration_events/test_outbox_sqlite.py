"""`SQLAlchemyOutboxStore` and the relay on real SQLite files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import MetaData, event, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from events.errors import BusError, OutboxError, OutboxTableError
from events.integration.event import IntegrationEvent
from events.integration.implementation.sqlalchemy import (
    SQLAlchemyOutbox,
    SQLAlchemyOutboxStore,
    enable_wal,
    outbox_table,
)
from events.integration.implementation.sqlalchemy import store as store_module
from events.integration.message import Message
from events.integration.outbox import Lease, OutboxRelay, OutboxRow, Parked, Postponed
from events.integration.outbox.partitions import renew
from events.integration.topology import RetryPolicy, Topic
from events.testing import eventually
from events.testing.contracts.outbox import ForwardedBus, pending

TOPIC = Topic("numbers")
TABLE = outbox_table(MetaData())
DEADLINE = 60.0


@dataclass(frozen=True)
class Numbered(IntegrationEvent):
    type = "test.sqlite.numbered"
    version = 1
    number: int


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{tmp_path}/outbox.db", connect_args={"timeout": 0}
    )
    await enable_wal(engine)
    async with engine.begin() as connection:
        await connection.run_sync(TABLE.metadata.create_all)
    yield engine
    await engine.dispose()


async def put(engine: AsyncEngine, *numbers: int, at: datetime | None = None) -> None:
    async with AsyncSession(engine) as session, session.begin():
        for number in numbers:
            await SQLAlchemyOutbox(session).put(TOPIC, Numbered(number), available_at=at)


class Hooked(ForwardedBus):
    def __init__(self, hook: Callable[[Sequence[Message]], Awaitable[None]]) -> None:
        super().__init__()
        self.hook = hook

    async def forward(self, messages: Sequence[Message]) -> Sequence[None]:
        if messages:
            await self.hook(messages)
        return await super().forward(messages)


async def test_no_transaction_is_open_while_the_bus_is_busy(engine: AsyncEngine) -> None:
    async def write(messages: Sequence[Message]) -> None:
        # Without a timeout: any lock of the relay's would make this fail.
        async with engine.connect() as connection:
            await connection.exec_driver_sql("BEGIN EXCLUSIVE")
            await connection.exec_driver_sql("COMMIT")

            async def truncated() -> bool:
                mode = await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
                assert mode.one()[0] == 0, "a reader is in the way"
                return True

            # A short read, as that of `drain`, is over soon, one around the send is not.
            await eventually(truncated, 10.0)

    await put(engine, 1, 2)
    bus = Hooked(write)
    async with OutboxRelay(SQLAlchemyOutboxStore(engine), bus) as relay:
        async with asyncio.timeout(DEADLINE):
            await relay.drain()
    assert bus.numbers == [1, 2]


async def test_a_locked_database_delays_the_removal_and_repeats_nothing(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async with engine.connect() as writer:

        async def lock(messages: Sequence[Message]) -> None:
            await writer.exec_driver_sql("BEGIN IMMEDIATE")

        await put(engine, 1, 2)
        bus = Hooked(lock)
        async with OutboxRelay(SQLAlchemyOutboxStore(engine), bus) as relay:
            async with asyncio.timeout(DEADLINE):
                while "database is locked" not in (relay.health().outage or ""):
                    await asyncio.sleep(0.001)
                await writer.exec_driver_sql("ROLLBACK")
                await relay.drain()
            await eventually(lambda: relay.health().healthy)
    assert bus.numbers == [1, 2]
    assert caplog.text.count("waits and tries again") == 1


async def test_a_commit_wakes_a_relay_with_an_engine_of_its_own(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("events.integration.outbox._relay_loop.FIRST_POLL", 3_600.0)
    arrived = asyncio.Event()

    async def arrive(messages: Sequence[Message]) -> None:
        arrived.set()

    idle = asyncio.Event()

    class Store(SQLAlchemyOutboxStore):
        async def due(
            self,
            lease: Lease,
            limit: int,
            *,
            after: int | None = None,
            max_bytes: int | None = None,
        ) -> Sequence[OutboxRow]:
            rows = await super().due(lease, limit, after=after, max_bytes=max_bytes)
            if not rows:
                idle.set()
            return rows

    own = create_async_engine(engine.url)
    async with OutboxRelay(Store(own), Hooked(arrive), poll_interval=3_600.0):
        async with asyncio.timeout(DEADLINE):
            await idle.wait()
            await put(engine, 1)
            await arrived.wait()
    await own.dispose()


async def test_scheduled_rows_wait_and_hold_up_nobody(engine: AsyncEngine) -> None:
    now = datetime.now(UTC)
    await put(engine, *range(20), at=now + timedelta(hours=1))
    await put(engine, 20, at=now - timedelta(seconds=1))
    await put(engine, 21, 22)
    bus = ForwardedBus()
    async with OutboxRelay(SQLAlchemyOutboxStore(engine), bus, batch=5) as relay:
        async with asyncio.timeout(DEADLINE):
            await relay.drain()
    assert bus.numbers == [20, 21, 22]
    async with engine.connect() as connection:
        assert len((await connection.execute(select(TABLE.c.id))).all()) == 20


async def test_a_postponed_row_keeps_error_and_attempts_and_comes_back(
    engine: AsyncEngine,
) -> None:
    await put(engine, 1, 2)
    store = SQLAlchemyOutboxStore(engine)
    first, second = await pending(store)
    (then,) = await store.postpone([Postponed(first.id, "KeyError: 'x'", 3_600.0, 1)])
    assert 3_590 < (then - datetime.now(UTC)).total_seconds() <= 3_601
    assert await pending(store) == [second]
    async with engine.connect() as connection:
        row = (await connection.execute(select(TABLE).where(TABLE.c.id == first.id))).one()
    assert (row.attempts, row.last_error) == (1, "KeyError: 'x'")
    again = [Postponed(first.id, "again", -1.0, 2)]
    await store.postpone(again)
    await store.postpone(again)  # as its first answer was lost
    assert [(row.id, row.attempts) for row in await pending(store)] == [(1, 2), (2, 0)]


async def test_a_refused_row_is_postponed_in_the_table(engine: AsyncEngine) -> None:
    class Refusing(ForwardedBus):
        async def forward(self, messages: Sequence[Message]) -> Sequence[None]:
            await super().forward(messages)
            return [BusError("no such exchange")] * len(messages)  # type: ignore[list-item]

    await put(engine, 1)
    later = RetryPolicy(delay=3_600, max_delay=3_600)  # than what a busy machine takes
    async with OutboxRelay(SQLAlchemyOutboxStore(engine), Refusing(), retry=later) as relay:
        async with asyncio.timeout(DEADLINE):
            await relay.drain()
    async with engine.connect() as connection:
        row = (await connection.execute(select(TABLE))).one()
    assert row.attempts == 1
    assert row.last_error == "BusError: no such exchange"
    assert row.available_at > row.created_at


@pytest.mark.parametrize(
    ("corruption", "error"),
    [
        ("headers = '{nope'", "OutboxError: its headers are not a JSON object of strings: "),
        ("headers = '{\"a\": 1}'", "OutboxError: its headers are not a JSON object of strings: "),
        ("headers = x'ff'", "OutboxError: its headers are not a JSON object of strings: "),
        ("body = 'text'", "OutboxError: its body does not hold bytes, but str"),
    ],
)
async def test_a_corrupt_row_is_parked_with_its_error_and_the_others_go_on(
    engine: AsyncEngine, corruption: str, error: str
) -> None:
    await put(engine, 1, 2, 3)
    async with engine.begin() as connection:
        await connection.exec_driver_sql(f"UPDATE outbox SET {corruption} WHERE id = 2")
    bus = ForwardedBus()
    async with OutboxRelay(SQLAlchemyOutboxStore(engine), bus) as relay:
        async with asyncio.timeout(DEADLINE):
            await relay.drain()
        assert relay.health().healthy
    assert bus.numbers == [1, 3]
    async with engine.connect() as connection:
        assert (await connection.execute(select(TABLE.c.id))).all() == []
    (parked,) = await relay.parked()
    assert (parked.id, parked.reason, parked.attempts) == (2, "unreadable", 0)
    assert parked.error.startswith(error)


async def test_no_statement_has_more_parameters_than_databases_take(engine: AsyncEngine) -> None:
    sizes: list[int] = []

    def note(
        conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> None:
        sizes.append(len(parameters))

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    await put(engine, 1, 2, 3)
    del sizes[:]
    await SQLAlchemyOutboxStore(engine).remove(range(2_500))
    assert sizes == [1_000, 1_000, 500]
    assert await pending(SQLAlchemyOutboxStore(engine)) == []


async def test_rows_are_read_under_a_lease_of_this_name_and_token_alone(
    engine: AsyncEngine,
) -> None:
    await put(engine, 1)
    store = SQLAlchemyOutboxStore(engine)
    mine = Lease("me", "token", frozenset(), 30.0, 0.0)
    own = (await store.renew(lambda leases: renew(leases, mine))).own
    assert len(await store.due(own, 10)) == 1
    assert await store.due(replace(own, token="other"), 10) == []
    assert await store.due(replace(own, relay="other"), 10) == []
    await store.leave(replace(own, token="other"))
    assert len(await store.due(own, 10)) == 1
    await store.leave(own)
    assert await store.due(own, 10) == []


async def test_per_key_a_row_with_a_time_of_its_own_holds_up_nobody(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session, session.begin():
        outbox = SQLAlchemyOutbox(session)
        later = datetime.now(UTC) + timedelta(hours=1)
        await outbox.put(TOPIC, Numbered(1), key="a", available_at=later)
        await outbox.put(TOPIC, Numbered(2), key="a")
    bus = ForwardedBus()
    store = SQLAlchemyOutboxStore(engine)
    async with OutboxRelay(store, bus, order="per_key") as relay, asyncio.timeout(DEADLINE):
        await relay.drain()
    assert bus.numbers == [2]


async def test_many_waiting_rows_are_read_part_by_part(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop has its turn in between: there may be hundreds of thousands."""
    async with AsyncSession(engine) as session, session.begin():
        for number in range(25):
            await SQLAlchemyOutbox(session).put(TOPIC, Numbered(number), key="a")
    store = SQLAlchemyOutboxStore(engine)
    until = datetime.now(UTC) + timedelta(hours=1)
    await store.defer(range(1, 26), until)
    in_one_turn: list[int] = [0]
    looping = asyncio.get_running_loop()

    def turn() -> None:
        in_one_turn.append(0)
        looping.call_soon(turn)

    def counted(moment: datetime) -> datetime:
        in_one_turn[-1] += 1
        return moment

    monkeypatch.setattr(store_module, "aware", counted)
    monkeypatch.setattr(store_module, "_AT_A_TIME", 10)
    turn()
    waiting = await store.waiting(Lease("a", "b", frozenset(range(32)), 1.0, 1.0))
    assert sorted(number for number, _, _ in waiting) == list(range(1, 26))
    assert max(in_one_turn) <= 10


async def test_both_halves_of_the_question_walk_the_index(engine: AsyncEngine) -> None:
    asked: list[tuple[str, Any]] = []

    def note(
        conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> None:
        asked.append((statement, parameters))

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    await SQLAlchemyOutboxStore(engine).due(Lease("a", "b", frozenset({1}), 1.0, 1.0), 10)
    ((statement, parameters),) = asked
    async with engine.connect() as connection:
        plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        steps = [row.detail for row in plan]
    assert sum("USING INDEX ix_outbox_due" in step for step in steps) == 2, steps
    assert not any("TEMP B-TREE" in step for step in steps), steps


# --- settings -------------------------------------------------------------------------------------


async def test_settings_that_make_writers_wait_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{tmp_path}/plain.db", connect_args={"timeout": 0}
    )
    async with engine.begin() as connection:
        await connection.run_sync(TABLE.metadata.create_all)
    await SQLAlchemyOutboxStore(engine).check()
    assert "'delete'" in caplog.text
    assert "enable_wal(engine)" in caplog.text
    assert "'timeout': 5" in caplog.text
    caplog.clear()
    await engine.dispose()

    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/plain.db")
    await enable_wal(engine)
    await SQLAlchemyOutboxStore(engine).check()
    assert caplog.records == []
    await engine.dispose()


async def test_a_database_in_memory_is_refused() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(TABLE.metadata.create_all)
    with pytest.raises(OutboxError, match="use a file"):
        await SQLAlchemyOutboxStore(engine).check()
    with pytest.raises(OutboxError, match="'memory'"):
        await enable_wal(engine)
    await engine.dispose()


async def test_a_relay_on_a_missing_table_does_not_start(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/bare.db")
    with pytest.raises(
        OutboxTableError, match=r"does not exist.*outbox_table\(metadata\).*Alembic"
    ):
        await OutboxRelay(SQLAlchemyOutboxStore(engine), ForwardedBus()).startup()
    await engine.dispose()


async def test_a_row_whose_id_is_parked_already_stops_no_other(engine: AsyncEngine) -> None:
    """As after a table was restored and its ids restarted."""
    store = SQLAlchemyOutboxStore(engine)
    await put(engine, 0)
    (old,) = await pending(store)
    await store.park([Parked(old.id, "reason", "error", 8)])
    async with AsyncSession(engine) as session, session.begin():
        await session.execute(text("UPDATE sqlite_sequence SET seq = seq - 1"))
    await put(engine, 1, 2, 3)
    assert old.id in [row.id for row in await pending(store)]

    class Picky(ForwardedBus):
        async def forward(self, messages: Sequence[Message]) -> Sequence[Any]:
            kept = [message for message in messages if b'"number":1' not in message.body]
            await super().forward(kept)
            return [None if message in kept else BusError("no") for message in messages]

    bus = Picky()
    async with OutboxRelay(store, bus, retry=RetryPolicy(attempts=1)) as relay:
        async with asyncio.timeout(DEADLINE):
            await relay.drain()
    assert bus.numbers == [2, 3]
    async with engine.connect() as connection:
        (row,) = (await connection.execute(select(TABLE))).all()
    assert row.id == old.id
    assert "BusError: no; and parking it failed: " in row.last_error
    assert [row.id for row in await store.parked(limit=9, after=None)] == [old.id]
