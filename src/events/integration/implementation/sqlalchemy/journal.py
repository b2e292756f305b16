"""`SQLAlchemyJournal`: the journal of all processes in one table, bounded in rows and in age.

Entries are buffered and written later, so no event waits for them. A process that is killed loses
its last entries. While the database is down, a full buffer drops its oldest entries.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from msgspec import convert
from msgspec.structs import asdict
from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from events.integration.implementation.sqlalchemy._checking import check_tables
from events.integration.implementation.sqlalchemy._clock import aware, moment
from events.integration.implementation.sqlalchemy._opening import begun, connected
from events.integration.implementation.sqlalchemy.tables import (
    ON_MYSQL,
    exact,
    require_table,
    table_in,
)
from events.integration.journal import Journal, JournalEntry
from events.integration.limits import LONGEST_NAME
from events.integration.pipeline.cancelling import Background
from events.integration.pipeline.retry import describe

logger = logging.getLogger("events.integration")

_BATCH = 1_000  # rows in one statement
_NAMES = ("correlation_id", "causation_id", "event_id", "type", "topic", "consumer", "process")
_CURE = (
    "add it to your MetaData with journal_table(metadata), then create it with metadata.create_all "
    "or an Alembic revision; pass table= if it has another name"
)


def journal_table(metadata: MetaData, name: str = "journal", *, schema: str | None = None) -> Table:
    """Add the table of the journal to your MetaData, where `create_all` and Alembic see it.

    A second call with the same name returns the existing table.
    """
    found = table_in(metadata, name, schema)
    if found is not None:
        return found
    return Table(
        name,
        metadata,
        Column(
            "id",
            BigInteger().with_variant(Integer, "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        Column("at", moment(), nullable=False),
        Column("what", String(16), nullable=False),
        Column("correlation_id", exact(LONGEST_NAME), nullable=False),
        Column("causation_id", String(LONGEST_NAME)),
        Column("event_id", String(LONGEST_NAME), nullable=False),
        Column("type", String(LONGEST_NAME), nullable=False),
        Column("topic", String(LONGEST_NAME), nullable=False),
        Column("consumer", String(LONGEST_NAME)),
        Column("attempt", Integer),
        Column("detail", Text),
        Column("process", String(LONGEST_NAME), nullable=False),
        Index(f"ix_{name}_correlation", "correlation_id", "id"),
        schema=schema,
        sqlite_autoincrement=True,
        **ON_MYSQL,
    )


class SQLAlchemyJournal(Journal):
    """Keep what happens to events in a table, within `async with journal:`.

    To only read it, as an operator does, `async with` is not needed. `lost` counts the entries for
    which the buffer had no room.

    Args:
        engine: You own it.
        table: The result of `journal_table`, if it has another name or a schema.
        max_rows: About how many rows are kept, the newest.
        max_age: How long they are kept.
        flush_every: Seconds that an entry may wait to be written.
        buffer: Entries that wait at most.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        table: Table | None = None,
        max_rows: int = 1_000_000,
        max_age: timedelta = timedelta(days=7),
        flush_every: float = 1.0,
        buffer: int = 10_000,
    ) -> None:
        super().__init__()
        if not isinstance(engine, AsyncEngine):
            raise TypeError(
                f"SQLAlchemyJournal needs an AsyncEngine, not {type(engine).__name__}: "
                f"from sqlalchemy.ext.asyncio import create_async_engine"
            )
        if max_rows < 1 or max_age <= timedelta(0) or buffer < 1 or not flush_every > 0:
            raise ValueError(
                f"max_rows and buffer must be at least 1, max_age and flush_every above 0, not "
                f"{max_rows}, {buffer}, {max_age}, {flush_every:g}"
            )
        self._table = journal_table(MetaData()) if table is None else table
        require_table(self._table)
        self._engine = engine
        self._max_rows = max_rows
        self._max_age = max_age
        self._flush_every = flush_every
        self._waiting: deque[JournalEntry] = deque()
        self._room = buffer
        self._writing: Background | None = None
        self._flushing = asyncio.Lock()
        self._away = False
        self.lost = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._engine.url!r}, {self._table.fullname!r})"

    # --- writing ------------------------------------------------------------------------------

    def write(self, entry: JournalEntry) -> None:
        """See `Journal`."""
        if len(self._waiting) >= self._room:
            self._waiting.popleft()
            self.lost += 1
        self._waiting.append(entry)

    async def __aenter__(self) -> Self:
        """Begin to observe. Raises `OutboxTableError` if the table is missing."""
        async with connected(self._engine) as connection:
            await connection.run_sync(check_tables, [self._table], _CURE)
        self._writing = Background(self._run)
        return await super().__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await super().__aexit__(exc_type, exc, traceback)
        writing, self._writing = self._writing, None
        if writing is not None:
            async with self._flushing:  # cut off behind its commit, it would write them twice
                await writing.end()
        await self._flush_or_warn()

    async def flush(self) -> None:
        """Write what waits now. Raises what the database's library raises."""
        async with self._flushing:  # the task flushes, too, and each entry is written once
            while self._waiting:
                some = [self._waiting[n] for n in range(min(_BATCH, len(self._waiting)))]
                async with begun(self._engine) as connection:
                    await connection.execute(insert(self._table), [_row(each) for each in some])
                for each in some:
                    # Those in front may have been dropped meanwhile, because there was no room.
                    if self._waiting and self._waiting[0] is each:
                        self._waiting.popleft()

    async def _run(self, calling: asyncio.Lock) -> None:
        loop = asyncio.get_running_loop()
        prune_at = loop.time()
        while True:
            await asyncio.sleep(self._flush_every)
            await self._flush_or_warn()
            if loop.time() >= prune_at:
                # Processes that started together do not prune together.
                prune_at = loop.time() + 60 * random.uniform(0.5, 1)  # noqa: S311 - no secret
                with suppress(SQLAlchemyError, OSError):  # as for the flush, which has said so
                    await self._prune(calling)

    async def _flush_or_warn(self) -> None:
        try:
            await self.flush()
        except (SQLAlchemyError, OSError) as error:
            if not self._away:
                logger.warning("%r cannot write and will retry: %s", self, describe(error))
            self._away = True
        else:
            self._away = False

    async def prune(self) -> int:
        """Remove what is over the bounds, in small transactions, and say how many rows."""
        return await self._prune(asyncio.Lock())

    async def _prune(self, calling: asyncio.Lock) -> int:
        removed = 0
        while True:
            async with calling:
                gone = await self._prune_some()
            removed += gone
            if gone < _BATCH:
                return removed

    async def _prune_some(self) -> int:
        c = self._table.c
        before = datetime.now(UTC) - self._max_age
        async with connected(self._engine) as connection:
            newest = (await connection.execute(select(func.max(c.id)))).scalar_one() or 0
            oldest = select(c.id, c.at).order_by(c.id).limit(_BATCH)
            found = (await connection.execute(oldest)).all()
        surplus = newest - self._max_rows
        old = [number for number, at in found if number <= surplus or aware(at) < before]
        if old:
            async with begun(self._engine) as connection:
                await connection.execute(delete(self._table).where(c.id.in_(old)))
        return len(old)

    # --- reading ------------------------------------------------------------------------------

    async def entries(self, correlation_id: str, *, limit: int = 1_000) -> Sequence[JournalEntry]:
        """See `JournalSource`."""
        c = self._table.c
        columns = [c[name] for name in JournalEntry.__struct_fields__]
        query = select(*columns).where(c.correlation_id == _name(correlation_id))
        async with connected(self._engine) as connection:
            found = (await connection.execute(query.order_by(c.id).limit(limit))).all()
        names = JournalEntry.__struct_fields__
        rows: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in found]
        entries = [convert({**row, "at": aware(row["at"])}, JournalEntry) for row in rows]
        return sorted(entries, key=lambda entry: entry.at)


def _row(entry: JournalEntry) -> dict[str, Any]:
    row = asdict(entry)
    for name in _NAMES:
        row[name] = None if row[name] is None else _name(row[name])
    row["detail"] = None if entry.detail is None else _plain(entry.detail)
    return row


def _name(text: str) -> str:
    return _plain(text)[:LONGEST_NAME]


def _plain(text: str) -> str:
    """Return what each database takes: PostgreSQL takes no NUL, and none takes half a character."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
