"""NOTIFY after commits on PostgreSQL: seldom, and with no connection left behind."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import pytest
from sqlalchemy import MetaData, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import QueuePool

from events.integration.event import IntegrationEvent
from events.integration.implementation.sqlalchemy import SQLAlchemyOutbox, _postgresql, outbox_table
from events.integration.implementation.sqlalchemy._postgresql import channel_of, listening
from events.integration.topology import Topic
from events.testing import eventually
from tests.databases.database import new_database

DEADLINE = 120.0
TABLE = outbox_table(MetaData())
OTHERS = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
    "AND pid <> pg_backend_pid() AND backend_type = 'client backend' AND query NOT LIKE 'LISTEN%'"
)


@dataclass(frozen=True)
class Woken(IntegrationEvent):
    type = "test.outbox_wakeup.woken"
    version = 1


@pytest.fixture(params=["asyncpg", "psycopg"])
async def engine(request: pytest.FixtureRequest) -> AsyncGenerator[AsyncEngine]:
    with new_database("postgresql") as made:
        engine = create_async_engine(made.url(f"postgresql+{request.param}"))
        async with engine.begin() as connection:
            await connection.run_sync(TABLE.metadata.create_all)
        yield engine
        await engine.dispose()


async def commit(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session, session.begin():
        await SQLAlchemyOutbox(session).put(Topic("woken"), Woken())


@dataclass
class Ear:
    """A listener, on an engine of its own, by which the server can be asked as well."""

    engine: AsyncEngine
    times: int = 0

    async def others(self) -> int:
        """Return how many connections there are besides its own."""
        async with self.engine.connect() as connection:
            count: int = (await connection.execute(OTHERS)).scalar_one()
            return count


@pytest.fixture
async def ear(engine: AsyncEngine) -> AsyncGenerator[Ear]:
    ear = Ear(create_async_engine(engine.url))

    def hear() -> None:
        ear.times += 1

    async with listening(ear.engine, channel_of(TABLE), hear):
        await eventually(lambda: ear.times, DEADLINE)  # it listens from now on
        ear.times = 0
        yield ear
    await ear.engine.dispose()


@pytest.mark.parametrize("turns", range(0, 40, 5))
async def test_a_commit_before_dispose_is_reported_and_leaves_no_connection(
    engine: AsyncEngine, ear: Ear, turns: int
) -> None:
    """A connection that is left is seen by the server, or, once it is deleted, by a warning."""
    await commit(engine)
    for _ in range(turns):
        await asyncio.sleep(0)
    await engine.dispose()
    await eventually(lambda: ear.times, DEADLINE)

    async def gone() -> bool:
        return await ear.others() == 0

    await eventually(gone, DEADLINE)
    gc.collect()


async def test_nothing_is_logged_by_one_that_stops_listening(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    listens = asyncio.Event()
    with caplog.at_level(logging.INFO):
        async with listening(engine, channel_of(TABLE), listens.set):
            await asyncio.wait_for(listens.wait(), DEADLINE)
    assert caplog.records == []


async def test_commits_that_follow_one_another_closely_are_reported_once(
    engine: AsyncEngine, ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_postgresql, "_REST", 3_600.0)
    await commit(engine)
    await eventually(lambda: ear.times, DEADLINE)
    pool = engine.sync_engine.pool
    assert isinstance(pool, QueuePool)
    await eventually(lambda: not pool.checkedout(), DEADLINE)  # the server may tell us first
    for _ in range(5):
        await commit(engine)
    assert await ear.others() == 1, "the connection is the application's again"
    assert ear.times == 1


async def test_what_is_committed_while_it_rests_is_reported_afterwards(
    engine: AsyncEngine, ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_postgresql, "_REST", 0.3)
    await commit(engine)
    await eventually(lambda: ear.times == 1, DEADLINE)
    await commit(engine)
    await eventually(lambda: ear.times == 2, DEADLINE)
