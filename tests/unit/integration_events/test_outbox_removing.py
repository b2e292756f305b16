"""How the relay gives way to the application's commits on SQLite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from sqlalchemy import MetaData, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

from events.integration.event import IntegrationEvent
from events.integration.implementation.sqlalchemy import (
    SQLAlchemyOutbox,
    SQLAlchemyOutboxStore,
    _removing,
    enable_wal,
    outbox_table,
)
from events.integration.topology import Topic

TABLE = outbox_table(MetaData())
OFF, NORMAL, FULL, EXTRA = range(4)  # of `PRAGMA synchronous`


@dataclass(frozen=True)
class Removed(IntegrationEvent):
    type = "test.removing.removed"
    version = 1


@dataclass
class Database:
    """A file with three rows, and the levels at which rows of it were deleted."""

    engine: AsyncEngine
    levels: list[int] = field(default_factory=list[int])

    async def level(self) -> int:
        """Return the level at which the next user of the pool commits."""
        async with self.engine.connect() as connection:
            found: int = (await connection.execute(text("PRAGMA synchronous"))).scalar_one()
            return found

    async def rows(self) -> int:
        return (await SQLAlchemyOutboxStore(self.engine).backlog()).pending


@asynccontextmanager
async def database(
    path: Path, level: int, *, wal: bool = True, **options: Any
) -> AsyncGenerator[Database]:
    options = {"timeout": 0, **options}
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}/outbox.db", connect_args=options)
    made = Database(engine)

    @event.listens_for(engine.sync_engine, "connect")
    def set_level(raw: Any, _record: object) -> None:
        raw.run_async(lambda driver: driver.executescript(f"PRAGMA synchronous = {level}"))

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def note_level(connection: Any, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("DELETE"):
            cursor = connection.connection.cursor()
            cursor.execute("PRAGMA synchronous")
            made.levels += cursor.fetchone()
            cursor.close()

    if wal:
        await enable_wal(engine)
    async with engine.begin() as connection:
        await connection.run_sync(TABLE.metadata.create_all)
    async with AsyncSession(engine) as session, session.begin():
        for _ in range(3):
            await SQLAlchemyOutbox(session).put(Topic("removing"), Removed())
    yield made
    await engine.dispose()


@pytest.mark.parametrize(
    ("level", "removed_at"), [(EXTRA, NORMAL), (FULL, NORMAL), (NORMAL, NORMAL), (OFF, OFF)]
)
async def test_removals_do_not_wait_for_the_disk_and_the_commits_of_others_do(
    tmp_path: Path, level: int, removed_at: int
) -> None:
    async with database(tmp_path, level) as there:
        await SQLAlchemyOutboxStore(there.engine).remove([1, 2])
        assert there.levels == [removed_at]
        assert await there.level() == level
        assert await there.rows() == 1


async def test_without_the_write_ahead_log_removals_are_as_safe_as_all(tmp_path: Path) -> None:
    """There the file could be damaged."""
    async with database(tmp_path, FULL, wal=False) as there:
        await SQLAlchemyOutboxStore(there.engine).remove([1, 2])
        assert there.levels == [FULL]


@pytest.mark.parametrize(("when", "removed_at"), [("begin", NORMAL), ("checkout", FULL)])
async def test_rows_are_removed_whoever_begins_the_transactions(
    tmp_path: Path, when: str, removed_at: int
) -> None:
    """As the driver does with `autocommit=False`, one may be open from the beginning."""
    async with database(tmp_path, FULL) as there:

        @event.listens_for(there.engine.sync_engine, "connect")
        def leave_it_to_us(raw: Any, _record: object) -> None:
            raw.isolation_level = None

        @event.listens_for(there.engine.sync_engine, when)
        def begin(connection: Any, *_: object) -> None:
            cursor = getattr(connection, "connection", connection).cursor()
            cursor.execute("BEGIN")
            cursor.close()

        await there.engine.dispose()
        await SQLAlchemyOutboxStore(there.engine).remove([1, 2])
        assert there.levels == [removed_at]
        assert await there.rows() == 1


async def test_a_removal_that_failed_leaves_no_connection_that_is_less_safe(tmp_path: Path) -> None:
    async with database(tmp_path, FULL) as there, there.engine.connect() as writer:
        await writer.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError, match="locked"):
            await SQLAlchemyOutboxStore(there.engine).remove([1, 2])
        assert there.levels == [NORMAL]
        assert await there.level() == FULL
        await writer.exec_driver_sql("ROLLBACK")
        await SQLAlchemyOutboxStore(there.engine).remove([1, 2])
        assert await there.rows() == 1


async def test_with_a_driver_that_is_not_known_rows_are_removed_as_safely_as_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database(tmp_path, FULL) as there:
        unknown = SimpleNamespace(driver_connection=object())
        monkeypatch.setattr(AsyncConnection, "get_raw_connection", AsyncMock(return_value=unknown))
        await SQLAlchemyOutboxStore(there.engine).remove([1, 2])
        assert there.levels == [FULL]
        assert await there.rows() == 1


async def test_between_two_removals_it_rests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        rests.append(seconds)
        await sleep(0)

    async with database(tmp_path, FULL) as there:
        store = SQLAlchemyOutboxStore(there.engine)
        await store.remove([1])
        monkeypatch.setattr(asyncio, "sleep", note)
        monkeypatch.setattr(_removing, "_REST", 1e9)
        monkeypatch.setattr(_removing, "_LONGEST_REST", 3_600.0)
        await store.remove([2])
        await store.remove([3])
    assert 3_000 < rests[-1] <= 3_600
