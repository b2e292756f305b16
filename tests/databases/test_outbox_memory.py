"""The relay's memory is bounded by the bytes of its batches, not by their rows: conformance 40."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace
from sqlalchemy import URL, bindparam, insert, make_url, select
from sqlalchemy.ext.asyncio import create_async_engine

from events.integration.implementation.sqlalchemy import AT_ONCE, enable_wal
from tests.contracts.sqlalchemy_outbox import SQLAlchemyDatabase
from tests.databases.database import new_database
from tests.unit.integration_events.outbox_table import row

ROWS = {"sqlite": 600, "postgresql": 1_500, "mariadb": 600}  # PostgreSQL compresses them
TEMPLATE = 10_000_000  # beyond what the table numbers by itself
BODY = 900_000
BATCH_BYTES = 8 << 20  # the relay's default
HELD = 3  # batches: two in flight, one read ahead
COPIES = 3  # of a body: in the driver's buffer, in its result, in the message
DRIVERS = ["sqlite+aiosqlite", "postgresql+asyncpg", "postgresql+psycopg", "mariadb+asyncmy"]


@asynccontextmanager
async def url_of(driver: str, folder: Path) -> AsyncGenerator[URL]:
    kind = driver.split("+", maxsplit=1)[0]
    if kind == "sqlite":
        yield make_url(f"{driver}:///{folder}/outbox.db")
        return
    with new_database(kind) as made:
        yield made.url(driver)


async def fill(url: URL) -> None:
    """Write a row with a large body, and let the database copy it."""
    engine = create_async_engine(url)
    if url.get_backend_name() == "sqlite":
        await enable_wal(engine)
    database = SQLAlchemyDatabase(engine)
    await database.create()
    table = database.table
    small = row(TEMPLATE)
    await database.insert(replace(small, message=replace(small.message, body=b"x" * BODY)))
    names = [column.name for column in table.columns if column.name not in {"id", "available_at"}]
    at = bindparam("at", type_=table.c.available_at.type)
    source = select(*(table.c[name] for name in names), at).where(table.c.id == TEMPLATE)
    copy = insert(table).from_select([*names, "available_at"], source)
    for _ in range(0, ROWS[url.get_backend_name()], 100):
        async with engine.begin() as connection:
            for _ in range(100):
                await connection.execute(copy, {"at": AT_ONCE})
    await engine.dispose()


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_backlog_of_large_events_leaves_the_relay_flat(driver: str, tmp_path: Path) -> None:
    async with url_of(driver, tmp_path) as url:
        await fill(url)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.databases.outbox_memory",
            url.render_as_string(hide_password=False),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0
    print(f"{driver}: {int(output) / 2**20:.1f} MiB")  # noqa: T201 - pytest shows it with -s
    assert int(output) <= HELD * COPIES * (BATCH_BYTES + BODY)
