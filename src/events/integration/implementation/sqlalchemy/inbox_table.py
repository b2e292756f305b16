"""The inbox table, and the two things done to it: a row is claimed, old rows are purged.

| column | holds |
|---|---|
| `consumer` | the consumer's name |
| `message_id` | the event's topic, source and id, or their hash |
| `handled_at` | when it was claimed, UTC |

The first two are the primary key, which makes an effect happen once. They are compared byte for
byte, so that no name or id equals another one. In CloudEvents, an id is unique only within its
source: two services may name their events after the same order, whose id may be a UUID.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, TypeAlias

from sqlalchemy import (
    Column,
    Connection,
    Index,
    Insert,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    insert,
    inspect,
    select,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import IntegrityError, NoSuchTableError
from sqlalchemy.types import TypeEngine

from events.errors import InboxError, InboxTableError
from events.integration.cloudevents import attribute
from events.integration.implementation.sqlalchemy._clock import aware, moment
from events.integration.implementation.sqlalchemy._sql_mode import wrong_mode
from events.integration.implementation.sqlalchemy.tables import schema_of, table_in
from events.integration.limits import LONGEST_NAME
from events.integration.message import Delivery, Message

Row: TypeAlias = Mapping[str, Any]

_CURE = (
    "add it to your MetaData with inbox_table(metadata), then create it with metadata.create_all "
    "or an Alembic revision; pass table= if it has another name"
)
_KEY = ("consumer", "message_id")
_PLAIN = re.compile(r"[!-~]*")  # visible ASCII: what every database keeps and compares as is
_DUPLICATE_ENTRY = 1062  # MySQL's and MariaDB's number of the error


def inbox_table(metadata: MetaData, name: str = "inbox", *, schema: str | None = None) -> Table:
    """Add the inbox table to your MetaData, where `create_all` and Alembic see it.

    A second call with the same name returns the existing table.
    """
    given: object = metadata
    if not isinstance(given, MetaData):
        what = f"the class {given.__name__}" if isinstance(given, type) else repr(given)
        cure = f": pass {given.__name__}.metadata" if isinstance(given, type) else ""
        raise TypeError(f"inbox_table needs a MetaData, not {what}{cure}")
    found = table_in(metadata, name, schema)
    if found is not None:
        return found
    return Table(
        name,
        metadata,
        Column("consumer", _exact("utf8mb4"), primary_key=True),
        Column("message_id", _exact("ascii"), primary_key=True),
        Column("handled_at", moment(), nullable=False),
        Index(f"ix_{name}_handled_at", "handled_at"),
        schema=schema,
        sqlite_with_rowid=False,  # the key is the table: one tree to write to less
        mysql_engine="InnoDB",  # has transactions, whatever the server would take by itself
        mariadb_engine="InnoDB",
    )


def _exact(charset: str) -> TypeEngine[str]:
    """Return the type of a text that is equal to itself alone; MySQL's usual ones ignore case."""
    exact = mysql.VARCHAR(LONGEST_NAME, charset=charset, collation=f"{charset}_bin")
    return String(LONGEST_NAME).with_variant(exact, "mysql", "mariadb")


def message_key(delivery: Delivery | Message) -> str:
    """Return what tells this message from all others of its consumer, over all redeliveries."""
    parts = [delivery.topic, attribute(delivery.headers, "source") or "", delivery.id]
    key = " ".join(parts)  # which none of them has in it
    if all(_PLAIN.fullmatch(part) for part in parts) and len(key) <= LONGEST_NAME:
        return key
    return f"sha256:{sha256(repr(parts).encode(errors='backslashreplace')).hexdigest()}"


class InboxTable:
    """The inbox's statements on its table, in the caller's transaction."""

    def __init__(self, table: Table) -> None:
        self.table = table
        missing = [name for name in (*_KEY, "handled_at") if name not in table.columns]
        if missing:
            raise InboxTableError(table.fullname, _another_layout(missing))
        self.clause = insert(table)
        self._inserts: dict[str, Insert] = {}

    def require(self, connection: Connection) -> None:
        """Raise `InboxTableError` unless the table is there, with its columns and its key."""
        table, inspector = self.table, inspect(connection)
        schema = schema_of(connection, table)
        wrong = wrong_mode(connection)
        if wrong is not None:
            raise InboxError(wrong)
        try:
            columns = {c["name"]: c for c in inspector.get_columns(table.name, schema)}
            key = inspector.get_pk_constraint(table.name, schema)["constrained_columns"]
        except NoSuchTableError as error:
            raise InboxTableError(table.fullname, f"it does not exist; {_CURE}") from error
        missing = [column.name for column in table.columns if column.name not in columns]
        if missing:
            raise InboxTableError(table.fullname, _another_layout(missing))
        if set(key) != set(_KEY):
            raise InboxTableError(
                table.fullname,
                f"its primary key is ({', '.join(key)}), not ({', '.join(_KEY)}), so it would not "
                f"notice what was handled already: migrate it",
            )
        for name in _KEY:
            length = getattr(columns[name]["type"], "length", None)
            if length is not None and length < LONGEST_NAME:
                raise InboxTableError(
                    table.fullname,
                    f"its column {name} holds {length} characters, not {LONGEST_NAME}: widen it",
                )

    def insert(self, connection: Connection, row: Row) -> bool:
        """Insert the row, unless it is there; say whether it was inserted.

        Of two transactions that insert the same row, one waits for the end of the other.
        """
        statement = self._inserts.get(connection.dialect.name)
        if statement is None:
            statement = self._insert(connection.dialect.name)
            # SQLAlchemy asks for the count of an insert only on request.
            statement = statement.execution_options(preserve_rowcount=True)
            self._inserts[connection.dialect.name] = statement
        try:
            inserted = connection.execute(statement, row).rowcount
        except IntegrityError as error:
            # MariaDB's own way to say that it does nothing, INSERT IGNORE, would hide other faults.
            if error.orig is not None and error.orig.args[:1] == (_DUPLICATE_ENTRY,):
                return False
            raise
        if inserted not in {0, 1}:  # taken for a duplicate, an event would be lost
            driver = connection.dialect.driver
            raise InboxError(f"{driver} says that an insert of one row inserted {inserted}")
        return inserted == 1

    def _insert(self, dialect: str) -> Insert:
        if dialect == "postgresql":
            return postgresql.insert(self.table).on_conflict_do_nothing(index_elements=_KEY)
        if dialect == "sqlite":
            return sqlite.insert(self.table).on_conflict_do_nothing(index_elements=_KEY)
        if dialect in {"mysql", "mariadb"}:
            return insert(self.table)
        raise InboxError(f"the inbox runs on PostgreSQL, MariaDB, MySQL and SQLite, not {dialect}")

    def holds(self, connection: Connection, row: Row) -> bool:
        """Return whether the row is there, as this transaction sees it."""
        c = self.table.c
        found = select(c.consumer).where(
            c.consumer == row["consumer"], c.message_id == row["message_id"]
        )
        return connection.execute(found).first() is not None

    def handled(
        self, connection: Connection, consumers: Collection[str], keys: Collection[str]
    ) -> list[tuple[str, str, datetime]]:
        """Return consumer, key and time of the rows that are there of these."""
        c = self.table.c
        query = select(c.consumer, c.message_id, c.handled_at).where(
            c.consumer.in_(consumers), c.message_id.in_(keys)
        )
        found = connection.execute(query)
        return [(consumer, key, aware(at)) for consumer, key, at in found]

    def expired(self, connection: Connection, before: datetime, batch: int) -> list[Row]:
        """Return the keys of the oldest rows, a batch at most, that are older than that."""
        c = self.table.c
        oldest = select(c.consumer, c.message_id).where(c.handled_at < before)
        found = connection.execute(oldest.order_by(c.handled_at).limit(batch))
        return [{"of": consumer, "id": message_id} for consumer, message_id in found]

    def remove(self, connection: Connection, keys: Sequence[Row], before: datetime) -> None:
        """Remove these rows, each found by its key.

        A condition on the time alone would have MariaDB lock, and wait for, rows of deliveries that
        are under way.
        """
        c = self.table.c
        one = delete(self.table).where(
            c.consumer == bindparam("of"), c.message_id == bindparam("id"), c.handled_at < before
        )
        connection.execute(one, keys)


def _another_layout(missing: list[str]) -> str:
    return f"it has no column {', '.join(missing)}, so it has another layout: migrate it"
