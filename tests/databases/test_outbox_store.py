"""What the store's statements say on each server: whose rows, under which lock, and how many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import MetaData, event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

from events.integration.event import IntegrationEvent
from events.integration.implementation.sqlalchemy import (
    SQLAlchemyOutbox,
    SQLAlchemyOutboxStore,
    outbox_table,
)
from events.integration.outbox import PARTITIONS, Lease, Parked, Renewal
from events.integration.outbox.partitions import renew
from events.integration.topology import Topic
from events.testing.contracts.outbox import pending
from tests.databases.database import new_database

TABLE = outbox_table(MetaData())
LATER = datetime.now(UTC) + timedelta(hours=1)
MANY = text(
    "INSERT INTO outbox (event_id, topic, partition_id, type, version, headers, body, created_at, "
    "available_at) SELECT 'id', 'topic', n % 32, 'type', 1, '{}', repeat('x', 200)::bytea, now(), "
    "to_timestamp(n % 2) FROM generate_series(1, 100000) AS n"
)
DRIVERS = {
    "asyncpg": ("postgresql", "postgresql+asyncpg"),
    "psycopg": ("postgresql", "postgresql+psycopg"),
    "asyncmy": ("mariadb", "mariadb+asyncmy"),
}


@dataclass(frozen=True)
class Stored(IntegrationEvent):
    type = "test.outbox_store.stored"
    version = 1
    number: int


@pytest.fixture(params=DRIVERS)
async def engine(request: pytest.FixtureRequest) -> AsyncGenerator[AsyncEngine]:
    kind, driver = DRIVERS[request.param]
    with new_database(kind) as made:
        engine = create_async_engine(made.url(driver))
        async with engine.begin() as connection:
            await connection.run_sync(TABLE.metadata.create_all)
        yield engine
        await engine.dispose()


@pytest.fixture
def store(engine: AsyncEngine) -> SQLAlchemyOutboxStore:
    return SQLAlchemyOutboxStore(engine)


async def put(engine: AsyncEngine, numbers: Sequence[int], key: str | None = None) -> None:
    async with AsyncSession(engine) as session, session.begin():
        for number in numbers:
            await SQLAlchemyOutbox(session).put(Topic("stored"), Stored(number), key=key)


def lease(relay: str, *partitions: int) -> Lease:
    return Lease(relay, f"token of {relay}", frozenset(partitions), 30.0, 30.0)


async def test_of_many_who_renew_at_once_each_sees_what_the_others_have_written(
    store: SQLAlchemyOutboxStore,
) -> None:
    """A partition is given to two relays if they read the leases at the same time."""

    async def take_the_next(number: int) -> int:
        def decide(leases: Sequence[Lease]) -> Renewal:
            own = lease(f"relay {number}", len(leases))
            return Renewal(own=own, ended=(), written=(own,), share=1)

        (partition,) = (await store.renew(decide)).own.partitions
        return partition

    relays = 8
    assert sorted(await asyncio.gather(*map(take_the_next, range(relays)))) == [*range(relays)]


async def test_rows_are_read_and_partitions_left_under_a_lease_of_this_name_and_token_alone(
    engine: AsyncEngine, store: SQLAlchemyOutboxStore
) -> None:
    await put(engine, [1])
    own = (await store.renew(lambda leases: renew(leases, lease("me")))).own
    assert len(await store.due(own, 10)) == 1
    for stranger in (replace(own, token="other"), replace(own, relay="other")):
        assert await store.due(stranger, 10) == []
        assert await store.due(stranger, 10, after=0) == []
        await store.leave(stranger)
    assert len(await store.due(own, 10, after=0)) == 1
    await store.leave(own)
    assert await store.due(own, 10) == []


async def test_rows_of_other_partitions_are_neither_due_nor_waiting(
    engine: AsyncEngine, store: SQLAlchemyOutboxStore
) -> None:
    await put(engine, range(100))
    await put(engine, range(100), key="a")
    own = (await store.renew(lambda leases: renew(leases, lease("me")))).own
    rows = {row.id: row for row in await store.due(own, 1_000)}
    found = list[int]()
    waiting = list[int]()
    await store.defer([row.id for row in rows.values() if row.message.key], LATER)
    for partition in range(PARTITIONS):
        of_partition = replace(own, partitions=frozenset({partition}))
        found += [row.id for row in await store.due(of_partition, 1_000)]
        waiting += [number for number, _, _ in await store.waiting(of_partition)]
    assert sorted(found) == [row.id for row in rows.values() if row.message.key is None]
    assert sorted(waiting) == [row.id for row in rows.values() if row.message.key == "a"]


async def test_rows_are_redriven_in_the_order_in_which_they_were_put(
    engine: AsyncEngine, store: SQLAlchemyOutboxStore
) -> None:
    """Whatever the order in which they were parked, which is how PostgreSQL keeps them."""
    await put(engine, range(5))
    rows = await pending(store)
    for row in reversed(rows):
        await store.park([Parked(row.id, "r", "e", 1)])
    assert await store.redrive([row.id for row in rows]) == [row.id for row in rows]
    assert [row.message.id for row in await pending(store)] == [row.message.id for row in rows]


async def test_two_who_take_the_same_parked_rows_in_opposite_orders_both_end(
    engine: AsyncEngine, store: SQLAlchemyOutboxStore
) -> None:
    rows = 2_500
    await put(engine, range(rows))
    await store.park([Parked(row.id, "r", "e", 1) for row in await pending(store)])
    ids = [row.id for row in await store.parked(limit=rows, after=None)]
    there, back = await asyncio.gather(store.redrive(ids), store.discard(ids[::-1]))
    assert sorted([*there, *back]) == ids
    assert len(await pending(store)) == len(there)


@pytest.mark.parametrize("after", [None, 0])
async def test_a_batch_is_a_walk_along_the_index_before_anything_was_analyzed(
    engine: AsyncEngine, store: SQLAlchemyOutboxStore, after: int | None
) -> None:
    """Of what is due at once, and of what was postponed until now, however much there is."""
    if engine.dialect.name != "postgresql":
        pytest.skip("MariaDB walks the index whatever it knows of the table")
    asked: list[tuple[str, Any]] = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def note(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        asked.append((statement, parameters))

    async with engine.begin() as connection:
        await connection.execute(MANY)
        await store.due(lease("me"), 500, after=after)
        steps = await _plan(connection, *asked[-1])
        await store.waiting(lease("me", *range(PARTITIONS)))
        of_waiting = await _plan(connection, *asked[-1])
    assert any("ix_outbox_due" in step for step in of_waiting), of_waiting
    assert sum("ix_outbox_due on outbox" in step for step in steps) == (1 if after == 0 else 2)
    assert not [step for step in steps if "Sort" in step or "Seq Scan" in step], steps
    assert sum("Index Cond" in step and "ROW(available_at, id) >" in step for step in steps) == 1


async def _plan(connection: AsyncConnection, statement: str, parameters: Any) -> list[str]:
    plan = await connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)
    return [step for (step,) in plan]


async def test_what_is_scheduled_and_who_holds_what_is_read_without_a_lock(
    engine: AsyncEngine, store: SQLAlchemyOutboxStore
) -> None:
    await put(engine, [1])
    async with AsyncSession(engine) as session, session.begin():
        outbox = SQLAlchemyOutbox(session)
        first = await outbox.put(Topic("stored"), Stored(2), key="k", available_at=LATER)
        await outbox.put(Topic("stored"), Stored(3), available_at=LATER)
        await outbox.put(Topic("stored"), Stored(4), available_at=LATER - timedelta(hours=2))
    page = await store.scheduled(limit=1, after=None)
    rest = await store.scheduled(limit=9, after=page[0].id)
    assert (page[0].event_id, page[0].key, page[0].error) == (first, "k", None)
    assert abs(page[0].available_at - LATER) < timedelta(seconds=1)
    assert len(rest) == 1

    own = lease("one", 3, 4)
    assert await store.leases() == []
    await store.renew(lambda _: Renewal(own=own, ended=(), written=(own,), share=2))

    async with engine.begin() as other:  # holds what relays lock one another out by
        await other.execute(text("UPDATE outbox_relays SET token = token WHERE relay = ''"))
        (found,) = await store.leases()
    assert (found.relay, found.partitions, found.length) == ("one", frozenset({3, 4}), 30.0)
    assert 0 < found.remaining <= 30
