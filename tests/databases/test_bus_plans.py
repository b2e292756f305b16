"""How PostgreSQL finds what is due: by a walk along the index, whatever else is in the table."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from sqlalchemy import MetaData, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from events.integration.implementation.sqlalchemy import bus_table
from events.integration.implementation.sqlalchemy._bus.rows import Rows
from events.integration.implementation.sqlalchemy._bus.tables import BusTables
from tests.databases.database import new_database

METADATA = MetaData()
TABLE = bus_table(METADATA)
FILL = """
    INSERT INTO bus (consumer_id, event_id, topic, partition_id, type, headers, body, created_at,
                     available_at, attempts)
    SELECT 1 + i % 3, 'e' || i, 't', i % 32, 'x', '{}', 'abc', now(),
           CASE WHEN i % 2 = 0 THEN '1970-01-01+00'::timestamptz ELSE now() + interval '1 day' END,
           0
    FROM generate_series(1, 100000) i
"""


@pytest.fixture
async def engine() -> AsyncGenerator[AsyncEngine]:
    with new_database("postgresql") as made:
        engine = create_async_engine(made.url("postgresql+asyncpg"))
        async with engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)
            await connection.execute(text("ALTER TABLE bus SET (autovacuum_enabled = false)"))
            await connection.execute(text(FILL))
        yield engine
        await engine.dispose()


@pytest.mark.parametrize("is_analyzed", [False, True])
async def test_what_is_due_is_read_along_the_index(engine: AsyncEngine, is_analyzed: bool) -> None:
    rows: Any = Rows(engine, engine, BusTables(TABLE))
    async with engine.begin() as connection:
        if is_analyzed:
            await connection.execute(text("ANALYZE bus"))
        for statement in (rows._at_once, rows._on, rows._postponed):
            for consumer in (1, 2, 3, 4):
                values = {
                    "member": "m",
                    "token": "t",
                    "consumer": consumer,
                    "partitions": (1 << 32) - 1,
                    "longest": 1_000,
                    "limit": 100,
                }
                if statement is rows._on:
                    values["after"] = 50_000
                sql = statement.params(values).compile(
                    dialect=engine.dialect, compile_kwargs={"literal_binds": True}
                )
                explain = text("EXPLAIN " + str(sql).replace(":", "\\:"))
                plan = "\n".join((await connection.execute(explain)).scalars())
                assert "Index Scan using ix_bus_due" in plan, plan
                assert "Sort" not in plan, plan
