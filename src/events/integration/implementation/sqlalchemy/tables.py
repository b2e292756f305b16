"""The tables of the outbox: waiting rows, parked rows, and the running relays.

| column of `outbox` | holds |
|---|---|
| `id` | a sequence that is never used twice: what relays order and delete by |
| `event_id` | the event's UUIDv7, the same wherever it travels |
| `topic`, `key`, `type`, `version` | as sent; `key` is NULL for events without order |
| `partition_id` | a hash of the key, or else of the id, below `PARTITIONS`: relays share by it |
| `headers`, `body` | the message: a JSON object of strings, and bytes |
| `created_at` | when `put` was called, UTC |
| `available_at` | not before this, UTC; `AT_ONCE`, in 1970, for nearly all |
| `attempts`, `last_error` | how often it could not be sent, and why |

The relay's two questions, what is due at once by `id` and what was postponed until now, are
answered from one index, so rows that wait for later cost nothing however many they are. There is no
NULL in it on purpose: of a table that was not analyzed yet, as one whose backlog has just grown,
PostgreSQL believes that few rows are NULL and would sort them all.

`outbox_parked` has the same columns but `available_at`, and `reason` and `parked_at`; its `id` is
the one that the row had. `outbox_relays` has a row for each running relay, with its partitions and
when its lease runs out, and one without a name, which is what they lock.

`outbox_scheduled` has the events that were put with a `schedule_id`, which is unique in it, until
their time comes: so neither the hot table nor its index knows of schedules. `outbox_recurring` has
a row for each recurrence, with up to when its occurrences were put.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Index,
    Insert,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    insert,
    select,
    text,
)
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

from events.errors import OutboxError, OutboxTableError
from events.integration.implementation.sqlalchemy._clock import moment
from events.integration.implementation.sqlalchemy._sql_mode import wrong_mode
from events.integration.limits import LONGEST_NAME

Row: TypeAlias = Mapping[str, Any]

MOST_IDS = 1_000
"""Ids in one statement: databases limit the number of its parameters."""

AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)
"""The `available_at` of events that are sent as soon as they are committed."""


CURE = (
    "add it to your MetaData with outbox_table(metadata), then create it with "
    "metadata.create_all or an Alembic revision; pass table= if it has another name"
)

ON_MYSQL: dict[str, Any] = {
    f"{name}_{option}": value
    for name in ("mysql", "mariadb")
    for option, value in (("charset", "utf8mb4"), ("engine", "InnoDB"))
}

_FAN_OUT = "events.bus"

_inserts: WeakKeyDictionary[Table, Insert] = WeakKeyDictionary()
_fan_outs: WeakKeyDictionary[Table, Insert] = WeakKeyDictionary()
_companions: WeakKeyDictionary[Table, MetaData] = WeakKeyDictionary()


def outbox_table(metadata: MetaData, name: str = "outbox", *, schema: str | None = None) -> Table:
    """Add the tables of the outbox to your MetaData, where `create_all` and Alembic see them.

    Returns the table with the given name. The others are `<name>_parked`, `<name>_relays`,
    `<name>_scheduled` and `<name>_recurring`. A second call with the same name returns the existing
    table.
    """
    given: object = metadata
    if not isinstance(given, MetaData):
        what = f"the class {given.__name__}" if isinstance(given, type) else repr(given)
        cure = f": pass {given.__name__}.metadata" if isinstance(given, type) else ""
        raise TypeError(f"outbox_table needs a MetaData, not {what}{cure}")
    found = table_in(metadata, name, schema)
    if found is not None:
        return found
    Table(
        f"{name}_parked",
        metadata,
        Column("id", BigInteger, primary_key=True, autoincrement=False),
        *message_columns(),
        Column("attempts", Integer, nullable=False),
        Column("last_error", Text),
        Column("reason", String(32), nullable=False),
        Column("parked_at", moment(), nullable=False),
        schema=schema,
        **ON_MYSQL,
    )
    Table(
        f"{name}_relays",
        metadata,
        Column("relay", exact(LONGEST_NAME), primary_key=True),
        Column("token", String(32), nullable=False),
        Column("partitions", String(LONGEST_NAME), nullable=False),
        Column("lease_seconds", Double, nullable=False),
        Column("expires_at", moment(), nullable=False),
        schema=schema,
        **ON_MYSQL,
    )
    add_schedule_tables(metadata, name, schema)
    return Table(
        name,
        metadata,
        Column("id", long_id(), primary_key=True, autoincrement=True),
        *message_columns(),
        Column("available_at", moment(), nullable=False),
        Column("attempts", Integer, nullable=False, server_default=text("0")),
        Column("last_error", Text),
        Index(f"ix_{name}_due", "available_at", "id"),
        schema=schema,
        sqlite_autoincrement=True,  # else SQLite gives the last row's id again once it is deleted
        **ON_MYSQL,
    )


def add_schedule_tables(metadata: MetaData, name: str, schema: str | None) -> None:
    """Add what an outbox or bus of this name has for scheduled and recurring events."""
    Table(
        f"{name}_scheduled",
        metadata,
        Column("id", long_id(), primary_key=True, autoincrement=True),
        Column(
            "schedule_id",
            # In the order of its characters, by which those with one prefix are found.
            exact(LONGEST_NAME).with_variant(
                postgresql.VARCHAR(LONGEST_NAME, collation="C"), "postgresql"
            ),
            nullable=False,
        ),
        *message_columns(),
        Column("available_at", moment(), nullable=False),
        UniqueConstraint("schedule_id", name=f"uq_{name}_scheduled"),
        Index(f"ix_{name}_scheduled_due", "available_at", "id"),
        schema=schema,
        sqlite_autoincrement=True,
        **ON_MYSQL,
    )
    Table(
        f"{name}_recurring",
        metadata,
        Column("name", exact(LONGEST_NAME), primary_key=True),
        Column("put_until", moment(), nullable=False),
        schema=schema,
        **ON_MYSQL,
    )


def companion(table: Table, what: str) -> Table:
    """Return the table of this outbox or bus for what is `"scheduled"` or `"recurring"`."""
    there = _companions.get(table)
    if there is None:
        there = _companions[table] = MetaData()
        add_schedule_tables(there, table.name, table.schema)
    return there.tables[f"{table.fullname}_{what}"]


def long_id() -> TypeEngine[int]:
    """Return the type of a row's number."""
    return BigInteger().with_variant(Integer, "sqlite")


def table_in(metadata: MetaData, name: str, schema: str | None) -> Table | None:
    """Return the table of this name, if it is there; the MetaData may have a schema of its own."""
    schema = schema or metadata.schema
    return metadata.tables.get(f"{schema}.{name}" if schema else name)


def message_columns() -> list[Column[Any]]:
    """Return the columns that each table of messages has."""
    long_text = Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
    long_bytes = LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
    return [
        Column("event_id", String(LONGEST_NAME), nullable=False),
        Column("topic", String(LONGEST_NAME), nullable=False),
        Column("key", String(LONGEST_NAME)),
        Column("partition_id", SmallInteger, nullable=False),
        Column("type", String(LONGEST_NAME), nullable=False),
        Column("version", Integer, nullable=False),
        Column("headers", long_text, nullable=False),
        Column("body", long_bytes, nullable=False),
        Column("created_at", moment(), nullable=False),
    ]


def exact(length: int) -> String:
    """Return a text in which 'a' is not 'A', as MariaDB's would be."""
    exact = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return String(length).with_variant(exact, "mysql", "mariadb")


class Tables:
    """An outbox table with its companions, found by their names.

    Raises `OutboxTableError` if the table is not from `outbox_table`.
    """

    def __init__(self, table: Table) -> None:
        require_table(table)
        require_columns(table, table.columns.keys())
        metadata = MetaData()
        outbox_table(metadata, table.name, schema=table.schema)
        self.outbox = table
        self.parked = metadata.tables[f"{table.fullname}_parked"]
        self.relays = metadata.tables[f"{table.fullname}_relays"]
        self.scheduled = companion(table, "scheduled")
        self.recurring = companion(table, "recurring")

    def __iter__(self) -> Iterator[Table]:
        return iter((self.outbox, self.parked, self.relays, self.scheduled, self.recurring))


def default_table() -> Table:
    """Return the table of the default name, for those who need not name theirs."""
    return _DEFAULT


def require_table(given: object) -> None:
    """Raise TypeError for anything but a table, such as its name."""
    if not isinstance(given, Table):
        raise TypeError(f"table= must be the result of outbox_table(metadata), not {given!r}")


def require_columns(table: Table, there: Collection[str], layout: Table | None = None) -> None:
    """Raise `OutboxTableError` if the table has not every column of this layout."""
    layout = layout if layout is not None else default_table()
    missing = [column.name for column in layout.columns if column.name not in there]
    if missing:
        raise OutboxTableError(
            table.fullname,
            f"it has no column {', '.join(missing)}, so it has another layout: migrate it",
        )


def schema_of(connection: Connection, table: Table) -> str | None:
    """Return the schema that the connection has the table in, as it may translate schemas."""
    schemas: Mapping[str | None, str | None] = connection.get_execution_options().get(
        "schema_translate_map", {}
    )
    return schemas.get(table.schema, table.schema)


def insert_into(table: Table) -> Insert:
    """Return the statement that inserts rows. Raises `OutboxTableError` if it lacks a column."""
    statement = _inserts.get(table)
    if statement is None:
        if fan_out_of(table) is None:  # SQLAlchemy would drop the surplus silently
            require_columns(table, table.columns.keys())
        # inline: the new ids are not needed, and fetching them would cost.
        statement = _inserts[table] = insert(table).inline()
    return statement


def insert_rows(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Write rows in the connection's transaction, by one statement.

    A bus's consumers are read first, unless that statement does it. Raises `OutboxTableError` if
    the table is missing, or lacks a column, and `OutboxError` for a database that would store
    something else.
    """
    wrong = wrong_mode(connection)
    if wrong is not None:
        raise OutboxError(wrong)
    fan_out = fan_out_of(table)
    try:
        if fan_out is not None:
            if len(rows) == 1 and connection.dialect.name == "postgresql":
                row = _of_a_bus(rows[0])
                statement = _insert_for_each_consumer(table, fan_out.consumers, row)
                connection.execute(statement, {f"{name}_": row[name] for name in row})
                return
            rows = _for_each_consumer(connection, fan_out.consumers, rows)
        if rows:
            connection.execute(insert_into(table), rows)
    except DBAPIError as error:
        if is_of_the_table(error):
            cure = CURE if fan_out is None else fan_out.cure
            raise OutboxTableError(table.fullname, f"{error.orig}; {cure}") from error
        raise


class FanOut(NamedTuple):
    """The additional columns of a bus's table: it gets a row for each consumer in `consumers`.

    `cure` says what to do if a table is missing.
    """

    consumers: Table
    cure: str

    def __repr__(self) -> str:
        """Return a text that Python can read, as Alembic writes it into a revision."""
        return repr("made by bus_table")


def fan_out_of(table: Table) -> FanOut | None:
    """Return it, if the table was made by `bus_table`."""
    found: object = table.info.get(_FAN_OUT)
    return found if isinstance(found, FanOut) else None


def info_of(fan_out: FanOut) -> dict[Any, Any]:
    """Return the `info` of a bus's table."""
    return {_FAN_OUT: fan_out}


def _of_a_bus(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "version"}


def _insert_for_each_consumer(table: Table, consumers: Table, row: Row) -> Insert:
    """Return what inserts such a row for each consumer of its topic, in one round trip.

    On MariaDB it would lock the consumers' rows until the end of the user's transaction.
    """
    statement = _fan_outs.get(table)
    if statement is None:
        values = [bindparam(f"{name}_", type_=table.c[name].type) for name in row]
        c = consumers.c
        each_consumer = select(c.id, *values).where(c.topic == bindparam("topic_")).order_by(c.id)
        statement = insert(table).from_select(["consumer_id", *row], each_consumer)
        _fan_outs[table] = statement
    return statement


def _for_each_consumer(connection: Connection, consumers: Table, rows: Sequence[Row]) -> list[Row]:
    c = consumers.c
    known: dict[str, list[int]] = {row["topic"]: [] for row in rows}
    query = select(c.topic, c.id).where(c.topic.in_(known)).order_by(c.id)
    for topic, consumer in connection.execute(query):
        known[topic].append(consumer)
    return [
        {"consumer_id": consumer, **_of_a_bus(row)}
        for row in rows
        for consumer in known[row["topic"]]
    ]


def is_of_the_table(error: DBAPIError) -> bool:
    """Return whether the table or a column is missing, by the database's code where it has one."""
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return state in _UNDEFINED
    return any(phrase in str(error.orig) for phrase in _NO_SUCH)


# A table, a column: on PostgreSQL, on MariaDB.
_UNDEFINED = ("42P01", "42703", "42S02", "42S22")
_NO_SUCH = (
    "no such table",  # SQLite
    "has no column",
    "doesn't exist",  # MariaDB
    "Unknown column",
)
_DEFAULT = outbox_table(MetaData())
