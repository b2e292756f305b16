"""Who releases what is due, and who cancels it meanwhile, in the order of their locks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

import pytest
from sqlalchemy import Connection, MetaData, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.util import await_only

from events.integration import Topic
from events.integration.implementation.sqlalchemy import (
    SQLAlchemyOutbox,
    SQLAlchemyOutboxStore,
    outbox_table,
)
from events.integration.implementation.sqlalchemy._calendar import _Due
from events.testing import eventually
from events.testing.contracts import Numbered
from tests.databases.database import new_database

PAST = datetime(2020, 1, 1, tzinfo=UTC)
WAITING = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = current_database() AND backend_type = 'client backend' "
    "AND wait_event_type = 'Lock'",
    # innodb_trx is not refreshed while it is read more often than each 0.1 s.
    "mariadb": "SELECT count(*) FROM information_schema.processlist "
    "JOIN information_schema.global_status WHERE db = database() AND info LIKE 'DELETE%' "
    "AND variable_name = 'INNODB_ROW_LOCK_CURRENT_WAITS' AND variable_value > 0",
}


@pytest.fixture(params=["postgresql+asyncpg", "mariadb+asyncmy"])
async def engine(request: pytest.FixtureRequest) -> AsyncGenerator[AsyncEngine]:
    with new_database(request.param.partition("+")[0]) as database:
        engine = create_async_engine(database.url(request.param))
        outbox_table(metadata := MetaData())
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        async with AsyncSession(engine) as session, session.begin():
            for number in range(3):
                await SQLAlchemyOutbox(session).put(
                    Topic("numbers"), Numbered(number), available_at=PAST, schedule_id=f"{number}"
                )
        yield engine
        await engine.dispose()


async def test_who_cancels_what_is_being_released_waits_and_hears_that_it_is_late(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SQLAlchemyOutboxStore(engine)
    locked, go_on = asyncio.Event(), asyncio.Event()

    lock = _Due.lock

    def lock_and_wait(due: _Due, connection: Connection, limit: int) -> list[int]:
        ids = lock(due, connection, limit)
        locked.set()
        await_only(go_on.wait())
        return ids

    monkeypatch.setattr(_Due, "lock", lock_and_wait)

    async def cancel() -> bool:
        async with AsyncSession(engine) as session, session.begin():
            return await SQLAlchemyOutbox(session).cancel("1")

    async def waits() -> bool:
        async with engine.connect() as connection:
            return bool((await connection.execute(text(WAITING[engine.dialect.name]))).scalar())

    releasing = asyncio.create_task(store.release(3))
    await locked.wait()
    cancelling = asyncio.create_task(cancel())
    await eventually(waits)
    go_on.set()
    assert await releasing == 3
    assert await cancelling is False


@pytest.mark.parametrize("engine", ["mariadb+asyncmy"], indirect=True)
async def test_a_migration_may_call_the_index_as_it_likes(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            text("ALTER TABLE outbox_scheduled RENAME INDEX uq_outbox_scheduled TO `my own`")
        )
    statements = list[str]()
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *of: statements.append(of[2]))
    assert await SQLAlchemyOutboxStore(engine).release(3) == 3
    assert sum("FORCE INDEX (`my own`)" in each for each in statements) == 1


async def test_what_is_being_cancelled_holds_up_nothing_behind_it(engine: AsyncEngine) -> None:
    store = SQLAlchemyOutboxStore(engine)
    async with AsyncSession(engine) as session, session.begin():
        for number in range(2):
            assert await SQLAlchemyOutbox(session).cancel(f"{number}")
        assert await store.release(1) == 1
        assert await store.release(1) == 0
