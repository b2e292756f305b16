"""The outbox table.

| column | holds |
|---|---|
| `id` | a sequence that is never used twice: what the relay orders and deletes by |
| `event_id` | the event's UUIDv7, the same wherever it travels |
| `topic`, `key`, `type`, `version` | as sent; `key` is NULL for events without order |
| `lane` | a hash of the key, or of the event's id, from 0 to `LANES` - 1: relays share by it |
| `headers`, `body` | the message: a JSON object of strings, and bytes |
| `created_at` | when `put` was called, UTC |
| `available_at` | not before this, UTC; NULL, as for nearly all, is at once and needs no clock |
| `attempts`, `last_error` | how often it could not be sent, and why |

The relay's two questions, `available_at IS NULL ORDER BY id` and `available_at <= now`, are
answered from one index, so rows that wait for later cost nothing however many they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary
from zlib import crc32

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Index,
    Insert,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    insert,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import OperationalError, ProgrammingError

from events.errors import OutboxTableError

__all__ = [
    "CURE",
    "LANES",
    "LONGEST_NAME",
    "Row",
    "insert_rows",
    "lane_of",
    "outbox_table",
    "require_columns",
]

Row: TypeAlias = Mapping[str, Any]

LANES = 64
"""Part of the table's layout: changing it would put a key's old and new rows on two lanes."""

LONGEST_NAME = 255
"""Characters that the columns `type` and `key` hold."""


CURE = (
    "add it to your MetaData with outbox_table(metadata), then create it with "
    "metadata.create_all or an Alembic revision; pass table= if it has another name"
)

_inserts: WeakKeyDictionary[Table, Insert] = WeakKeyDictionary()


def outbox_table(metadata: MetaData, name: str = "outbox", *, schema: str | None = None) -> Table:
    """Add the outbox table to your MetaData, where `create_all` and Alembic see it.

    Returns the one that is there already if called again with the same name.
    """
    given: object = metadata
    if not isinstance(given, MetaData):
        what = f"the class {given.__name__}" if isinstance(given, type) else repr(given)
        cure = f": pass {given.__name__}.metadata" if isinstance(given, type) else ""
        raise TypeError(f"outbox_table needs a MetaData, not {what}{cure}")
    found = metadata.tables.get(f"{schema}.{name}" if schema else name)
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
        Column("event_id", String(LONGEST_NAME), nullable=False),
        Column("topic", String(LONGEST_NAME), nullable=False),
        Column("key", String(LONGEST_NAME)),
        Column("lane", SmallInteger, nullable=False),
        Column("type", String(LONGEST_NAME), nullable=False),
        Column("version", Integer, nullable=False),
        Column("headers", Text, nullable=False),
        Column(
            "body",
            LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb"),
            nullable=False,
        ),
        Column("created_at", _moment(), nullable=False),
        Column("available_at", _moment()),
        Column("attempts", Integer, nullable=False, server_default=text("0")),
        Column("last_error", Text),
        Index(f"ix_{name}_due", "available_at", "id"),
        schema=schema,
        sqlite_autoincrement=True,  # else SQLite gives the last row's id again once it is deleted
    )


def require_columns(table: Table, there: Collection[str]) -> None:
    """Raise `OutboxTableError` if the table has not every column of this layout."""
    missing = [
        column.name for column in outbox_table(MetaData()).columns if column.name not in there
    ]
    if missing:
        raise OutboxTableError(
            table.fullname,
            f"it has no column {', '.join(missing)}, so it is of another layout: migrate it",
        )


def lane_of(key: str | None, event_id: str) -> int:
    """Return the lane of a key, or of an event without one; the same in every process."""
    return crc32((event_id if key is None else key).encode()) % LANES


def insert_rows(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Write rows in the connection's transaction: one statement, one round trip.

    Raises `OutboxTableError` if the table is missing, or lacks a column.
    """
    statement = _inserts.get(table)
    if statement is None:
        require_columns(table, table.columns.keys())  # SQLAlchemy would drop the surplus silently
        # inline: nobody asks for the new ids, and fetching them would cost.
        statement = _inserts[table] = insert(table).inline()
    try:
        connection.execute(statement, rows)
    except (OperationalError, ProgrammingError) as error:
        reason = str(error.orig)
        if "no such table" in reason or "has no column" in reason:
            raise OutboxTableError(table.fullname, f"{reason}; {CURE}") from error
        raise


def _moment() -> DateTime:
    return DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
