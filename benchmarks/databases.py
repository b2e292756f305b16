"""Outboxes on a database of their own: on a file, or on the servers that the tests use too."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import MetaData, Table, func, insert, literal, select, text, true, union_all
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from benchmarks.workload import OrderPlaced, make
from events.integration import Topic
from events.integration.implementation.sqlalchemy import SQLAlchemyOutbox, enable_wal, outbox_table
from tests.databases.database import new_database

KINDS = {
    "SQLite": "sqlite+aiosqlite",
    "PostgreSQL": "postgresql+asyncpg",
    "MariaDB": "mariadb+asyncmy",
}
TOPIC = Topic("bench")


@contextmanager
def database_url(kind: str) -> Any:
    driver = KINDS[kind]
    if kind == "SQLite":
        with tempfile.TemporaryDirectory(prefix="events-bench-") as folder:
            yield f"{driver}:///{Path(folder) / 'outbox.db'}"
    else:
        with new_database(kind.lower()) as database:
            yield database.url(driver).render_as_string(hide_password=False)


@asynccontextmanager
async def outbox(kind: str) -> AsyncGenerator[tuple[AsyncEngine, Table]]:
    """Make an empty outbox, and a table `app` of two columns for the writes beside it."""
    with database_url(kind) as url:
        engine = create_async_engine(url)
        metadata = MetaData()
        table = outbox_table(metadata)
        if kind == "SQLite":
            await enable_wal(engine)
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
            await connection.exec_driver_sql("CREATE TABLE app (id INTEGER, note VARCHAR(100))")
        yield engine, table
        await engine.dispose()


async def fill(engine: AsyncEngine, table: Table, rows: int) -> None:
    """Have so many rows wait: some are put, the others copied from them by the database itself."""
    first = rows
    while first > 1_000 and first % 10 == 0:
        first //= 10
    async with AsyncSession(engine) as session, session.begin():
        box = SQLAlchemyOutbox(session, table=table)
        for event in make(first, OrderPlaced):
            await box.put(TOPIC, event)  # type: ignore[arg-type]
    columns = [column for column in table.columns if column.name != "id"]
    nine = union_all(*(select(literal(number).label("number")) for number in range(9))).subquery()
    copied = select(*columns).select_from(table.join(nine, true()))
    while first < rows:
        async with engine.begin() as connection:
            await connection.execute(insert(table).from_select([c.name for c in columns], copied))
        first *= 10
    assert await count(engine, table) == rows


async def settle(engine: AsyncEngine) -> None:
    """Have the database done with what was filled in: on disk, and counted for its plans.

    Else it does that at any time, and a drain at that time is slower.
    """
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with alone.connect() as connection:
        for statement in _SETTLE[engine.dialect.name]:
            await connection.execute(text(statement))


_SETTLE = {
    "sqlite": ("PRAGMA wal_checkpoint(TRUNCATE)",),
    "postgresql": ("VACUUM ANALYZE outbox", "CHECKPOINT"),
    "mariadb": ("ANALYZE TABLE outbox",),
}


async def count(engine: AsyncEngine, table: Table) -> int:
    async with engine.connect() as connection:
        return (await connection.execute(select(func.count()).select_from(table))).scalar_one()
