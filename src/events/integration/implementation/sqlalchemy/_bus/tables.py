"""The tables of the bus: waiting events, consumers, dead letters, and running buses.

| table | has a row for each |
|---|---|
| `bus` | event that waits for a consumer, or is being handled by it |
| `bus_consumers` | consumer of a topic; a publisher writes a row into `bus` for each of them; |
| | and paused consumer, without a topic |
| `bus_dead_letters` | event that a consumer could not handle |
| `bus_members` | running bus: which partitions of which consumers it has, and until when |
| `bus_scheduled` | event that was put with a `schedule_id`, and waits for its time |
| `bus_recurring` | recurrence: up to when its occurrences were put |

`available_at` of `bus` is `AT_ONCE` for what was not postponed, so what is due is found along one
index, whatever waits for later. Of what was redriven it is `REDRIVEN`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import (
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from events.integration.implementation.sqlalchemy._clock import moment
from events.integration.implementation.sqlalchemy.tables import (
    AT_ONCE,
    ON_MYSQL,
    FanOut,
    add_schedule_tables,
    companion,
    exact,
    info_of,
    long_id,
    message_columns,
    require_columns,
    require_table,
    table_in,
)
from events.integration.limits import LONGEST_NAME

CURE = (
    "add it to your MetaData with bus_table(metadata), then create it with metadata.create_all or "
    "an Alembic revision; pass table= if it has another name"
)

MESSAGE = ("event_id", "topic", "key", "partition_id", "type", "headers", "body", "created_at")
"""The columns that hold a message."""

REDRIVEN: Final = AT_ONCE + timedelta(seconds=1)
"""The `available_at` of redriven dead letters: due, and different from that of new rows."""


def bus_table(metadata: MetaData, name: str = "bus", *, schema: str | None = None) -> Table:
    """Add the tables of the bus to your MetaData, where `create_all` and Alembic see them.

    Returns the table with the given name. The others are `<name>_consumers`,
    `<name>_dead_letters`, `<name>_members`, `<name>_scheduled` and `<name>_recurring`. A second
    call with the same name returns the existing table.
    """
    given: object = metadata
    if not isinstance(given, MetaData):
        raise TypeError(f"bus_table needs a MetaData, not {given!r}: pass Base.metadata")
    found = table_in(metadata, name, schema)
    if found is not None:
        return found
    options: dict[str, Any] = {"schema": schema, "sqlite_autoincrement": True, **ON_MYSQL}
    consumers = Table(
        f"{name}_consumers",
        metadata,
        Column("id", Integer, primary_key=True, autoincrement=True),
        Column("topic", exact(LONGEST_NAME), nullable=False),
        Column("consumer", exact(LONGEST_NAME), nullable=False),
        UniqueConstraint("topic", "consumer", name=f"uq_{name}_consumers"),
        **options,
    )
    Table(
        f"{name}_dead_letters",
        metadata,
        Column("id", long_id(), primary_key=True, autoincrement=True),
        Column("consumer_id", Integer, nullable=False),
        Column("consumer", exact(LONGEST_NAME), nullable=False),
        *_message(),
        Column("attempts", Integer, nullable=False),
        Column("reason", String(32), nullable=False),
        Column("error", Text, nullable=False),
        Column("died_at", moment(), nullable=False),
        Index(f"ix_{name}_dead_letters", "consumer", "id"),
        **options,
    )
    Table(
        f"{name}_members",
        metadata,
        Column("member", exact(LONGEST_NAME), primary_key=True),
        Column("token", String(32), nullable=False),
        Column("partitions", Text, nullable=False),
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
        Column("consumer_id", Integer, nullable=False),
        *_message(),
        Column("available_at", moment(), nullable=False),
        Column("attempts", Integer, nullable=False, server_default=text("0")),
        Column("crashes", Integer, nullable=False, server_default=text("0")),
        Index(f"ix_{name}_due", "consumer_id", "available_at", "id"),
        info=info_of(FanOut(consumers, CURE)),
        **options,
    )


def _message() -> list[Column[Any]]:
    return [column for column in message_columns() if column.name in MESSAGE]


class BusTables:
    """A bus's table with its companions, found by their names.

    Raises `OutboxTableError` if the table is not from `bus_table`.
    """

    def __init__(self, table: Table) -> None:
        require_table(table)
        metadata = MetaData()
        layout = bus_table(metadata, table.name, schema=table.schema)
        require_columns(table, table.columns.keys(), layout=layout)
        self.rows = table
        self.consumers = metadata.tables[f"{table.fullname}_consumers"]
        self.dead_letters = metadata.tables[f"{table.fullname}_dead_letters"]
        self.members = metadata.tables[f"{table.fullname}_members"]
        self.scheduled = companion(table, "scheduled")
        self.recurring = companion(table, "recurring")

    def __iter__(self) -> Iterator[Table]:
        work = (self.rows, self.consumers, self.dead_letters, self.members)
        return iter((*work, self.scheduled, self.recurring))


def default_bus_table() -> Table:
    """Return the table of the default name, for those who need not name theirs."""
    return _DEFAULT


_DEFAULT = bus_table(MetaData())
