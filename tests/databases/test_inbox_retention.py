"""Rows are removed on the servers too, beside deliveries that are under way."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, insert
from sqlalchemy.util import await_only

from events.integration.implementation.sqlalchemy import SQLAlchemyInbox
from events.testing.contracts._inbox_database import deliver
from tests.contracts.sqlalchemy_inbox import SQLAlchemyInboxDatabase, on_server

DRIVERS = ["postgresql+asyncpg", "postgresql+psycopg", "mariadb+asyncmy"]


@pytest.mark.parametrize("driver", DRIVERS)
async def test_purge_and_deliveries_do_not_wait_for_one_another(driver: str) -> None:
    async with on_server(driver) as database:
        database.inbox = inbox = SQLAlchemyInbox(database.sessions)
        await inbox.startup()
        # All of them older than the retention: MariaDB would walk the whole table, locks and all.
        await fill(database, 2500)
        held, go = asyncio.Event(), asyncio.Event()

        async def handler() -> None:
            await database.write(1)
            held.set()
            await go.wait()

        delivery = asyncio.create_task(deliver(database, handler))
        await asyncio.wait_for(held.wait(), 60)
        assert await asyncio.wait_for(inbox.purge(), 40) == 2500
        go.set()
        assert await delivery
        assert await database.rows() == 1
        await inbox.shutdown()


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_delivery_is_not_held_up_by_a_batch_that_is_being_removed(driver: str) -> None:
    async with on_server(driver) as database:
        database.inbox = inbox = SQLAlchemyInbox(database.sessions)
        await inbox.startup()
        await fill(database, 100)
        removed, go = asyncio.Event(), asyncio.Event()
        remove = inbox._inbox.remove

        def slow(connection: Connection, keys: Any, before: datetime) -> None:
            remove(connection, keys, before)
            removed.set()
            await_only(go.wait())

        inbox._inbox.remove = slow  # type: ignore[method-assign]
        purging = asyncio.create_task(inbox.purge())
        await asyncio.wait_for(removed.wait(), 60)

        async def handler() -> None:
            await database.write(1)

        assert await asyncio.wait_for(deliver(database, handler), 40)
        go.set()
        assert await purging == 100
        await inbox.shutdown()


async def fill(database: SQLAlchemyInboxDatabase, count: int) -> None:
    old = datetime.now(UTC) - timedelta(days=8)
    rows = [
        {"consumer": "c", "message_id": str(n), "handled_at": old + timedelta(microseconds=n)}
        for n in range(count)
    ]
    async with database.engine.begin() as connection:
        await connection.execute(insert(database.table), rows)


@pytest.mark.parametrize("driver", DRIVERS)
async def test_alembic_finds_the_table_as_it_is(driver: str) -> None:
    async with on_server(driver) as database:
        async with database.engine.connect() as connection:
            found = await connection.run_sync(
                lambda sync: compare_metadata(
                    MigrationContext.configure(sync, opts={"compare_type": True}), database.metadata
                )
            )
        assert [diff for diff in found if "inbox" in str(diff)] == []
