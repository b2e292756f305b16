"""`SQLAlchemyOutboxStore`: the rows of the outbox table, as the relay reads and removes them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta

import msgspec
from sqlalchemy import (
    Connection,
    Integer,
    Table,
    bindparam,
    delete,
    inspect,
    select,
    union_all,
    update,
)
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.ext.asyncio import AsyncEngine

from events.errors import OutboxError, OutboxTableError
from events.integration.implementation.sqlalchemy import sqlite
from events.integration.implementation.sqlalchemy.outbox import default_table
from events.integration.implementation.sqlalchemy.tables import CURE, require_columns
from events.integration.implementation.sqlalchemy.wakeup import listening
from events.integration.message import Message
from events.integration.outbox import OutboxRow, Postponed

__all__ = ["SQLAlchemyOutboxStore"]

_MOST_IDS = 1_000  # in one statement: databases limit the number of its parameters
_decode_headers = msgspec.json.Decoder(dict[str, str]).decode


class SQLAlchemyOutboxStore:
    """The relay's side of the table. The engine stays yours; it may be the application's own.

    Args:
        engine: An engine whose pool gives each user a connection of its own.
        table: What `outbox_table` returned, if it was given a name or a schema.
    """

    def __init__(self, engine: AsyncEngine, *, table: Table | None = None) -> None:
        if not isinstance(engine, AsyncEngine):
            raise TypeError(
                f"SQLAlchemyOutboxStore needs an AsyncEngine, not {type(engine).__name__}: "
                f"from sqlalchemy.ext.asyncio import create_async_engine"
            )
        self._engine = engine
        self._table = table = default_table() if table is None else table
        require_columns(table, table.columns.keys())
        c = table.c
        columns = (c.id, c.event_id, c.topic, c.key, c.type, c.headers, c.body, c.attempts)
        limit = bindparam("limit", type_=Integer())
        at_once = select(*columns).where(c.available_at.is_(None)).order_by(c.id).limit(limit)
        later = (
            select(*columns)
            .where(c.available_at <= bindparam("now", type_=c.available_at.type))
            .order_by(c.available_at, c.id)
            .limit(limit)
        )
        # Each half is a walk along the index; one condition with OR would be a sort of the backlog.
        self._due = union_all(select(at_once.subquery()), select(later.subquery()))
        self._remove = delete(table).where(c.id.in_(bindparam("ids", expanding=True)))
        self._postpone = (
            update(table)
            .where(c.id == bindparam("row"))
            .values(
                attempts=c.attempts + 1,
                last_error=bindparam("error"),
                available_at=bindparam("then"),
            )
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._engine.url!r}, {self._table.fullname!r})"

    async def check(self) -> None:
        """See `OutboxStore.check`. Warns of settings under which writers would wait for the relay.

        Raises `OutboxError` for a database that is shared through one connection.
        """
        async with self._engine.connect() as connection:
            await connection.run_sync(self._check)

    def _check(self, connection: Connection) -> None:
        table = self._table
        try:
            there = {c["name"] for c in inspect(connection).get_columns(table.name, table.schema)}
        except NoSuchTableError as error:
            raise OutboxTableError(table.fullname, f"it is not there; {CURE}") from error
        require_columns(table, there)
        if connection.dialect.name == "sqlite":
            sqlite.check(connection)

    async def due(self, limit: int) -> Sequence[OutboxRow]:
        """See `OutboxStore.due`."""
        async with self._engine.connect() as connection:
            result = await connection.execute(self._due, {"limit": limit, "now": datetime.now(UTC)})
            rows = [_row(*found) for found in result]
        rows.sort(key=lambda row: row.id)
        return rows

    async def remove(self, ids: Collection[int]) -> None:
        """See `OutboxStore.remove`."""
        rest = list(ids)
        async with self._engine.begin() as connection:
            while rest:
                await connection.execute(self._remove, {"ids": rest[:_MOST_IDS]})
                del rest[:_MOST_IDS]

    async def postpone(self, rows: Sequence[Postponed]) -> None:
        """See `OutboxStore.postpone`."""
        now = datetime.now(UTC)
        async with self._engine.begin() as connection:
            await connection.execute(
                self._postpone,
                [
                    {"row": r.id, "error": r.error, "then": now + timedelta(seconds=r.delay)}
                    for r in rows
                ],
            )

    def listen(self, wake: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        """See `OutboxStore.listen`: hears of the commits of this process."""
        return self._listen(wake)

    @asynccontextmanager
    async def _listen(self, wake: Callable[[], None]) -> AsyncGenerator[None]:
        with listening(self._engine.url, wake):
            yield


def _row(
    number: int,
    event_id: str,
    topic: str,
    key: str | None,
    event_type: str,
    headers: str,
    body: object,  # bytes, unless somebody wrote to SQLite what the column should not hold
    attempts: int,
) -> OutboxRow:
    fault: OutboxError | None = None
    decoded: dict[str, str] = {}
    try:
        decoded = _decode_headers(headers)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this row's
        fault = OutboxError(f"its headers are no JSON object of strings: {error}")
    if not isinstance(body, bytes):
        fault = OutboxError(f"its body holds no bytes: {type(body).__name__}")
        body = b""
    message = Message(topic, event_type, event_id, body, decoded, key)
    return OutboxRow(number, message, attempts, fault)
