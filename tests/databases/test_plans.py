"""Databases find what is due by a walk along an index, however many rows wait for their time.

`python -m benchmarks.plans` shows the same plans with a million rows.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.databases.database import new_database
from tests.databases.plans import METADATA, Plan, analyze, fill, plans

ROWS = 20_000
READ = 300  # rows on MariaDB, pages on PostgreSQL: for no more than the 100 that are asked for
SEQUENTIAL = re.compile(r"Seq Scan on (outbox|bus)(_scheduled)?\b")
SORTED = re.compile(r"Sort|filesort|TEMP B-TREE")
SCANNED = re.compile(r"SCAN (outbox|bus)(_scheduled)?$")


@pytest.fixture(params=["postgresql+asyncpg", "mariadb+asyncmy", "sqlite+aiosqlite"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    driver: str = request.param
    if driver.startswith("sqlite"):
        engine = create_async_engine(f"{driver}:///{tmp_path}/plans.db")
        yield engine
        await engine.dispose()
        return
    with new_database(driver.partition("+")[0]) as made:
        engine = create_async_engine(made.url(driver))
        yield engine
        await engine.dispose()


async def test_what_is_due_is_read_along_an_index_however_much_waits(engine: AsyncEngine) -> None:
    with _uncounted(engine):
        await fill(engine, ROWS)
    _check(engine, await plans(engine))  # of tables that nobody has counted
    await analyze(engine)
    _check(engine, await plans(engine))


async def test_a_backlog_is_read_along_an_index_as_well(engine: AsyncEngine) -> None:
    with _uncounted(engine):
        await fill(engine, 0, due=ROWS)
    found = await plans(engine, limit=500, is_backlog=True)
    due = [each for each in found if "what is due" in each.question]
    assert len(due) >= 4
    assert not [plan for plan in due if not _is_walk(plan)]


@contextmanager
def _uncounted(engine: AsyncEngine) -> Generator[None]:
    if engine.dialect.name != "postgresql":
        yield
        return
    event.listen(METADATA, "after_create", _without_autovacuum)
    try:
        yield
    finally:
        event.remove(METADATA, "after_create", _without_autovacuum)


def _without_autovacuum(_: object, connection: Any, **__: object) -> None:
    for name in METADATA.tables:
        connection.execute(text(f"ALTER TABLE {name} SET (autovacuum_enabled = false)"))


def _check(engine: AsyncEngine, found: list[Plan]) -> None:
    assert {each.question for each in found} >= {"outbox: what is due", "bus: what is due"}
    bad = [
        "\n".join([plan.question, plan.sql, *plan.lines])
        for plan in found
        # A page of those with one prefix is sorted: only operators ask for it.
        if not (_reads_little(plan) and (_is_walk(plan) or "prefix" in plan.question))
    ]
    assert not bad, "\n\n".join(bad)


def _is_walk(plan: Plan) -> bool:
    wrong = (SEQUENTIAL, SORTED, SCANNED)
    return not any(each.search(line) for line in plan.lines for each in wrong)


def _reads_little(plan: Plan) -> bool:
    text = "\n".join(plan.lines)
    pages = re.findall(r"(?:hit|read)=(\d+)", text)
    rows = re.findall(r"r_rows ([\d.]+)", text)
    return all(float(number) <= READ for number in (*pages, *rows))
