"""The tables of the bus: what waits for each consumer, dead letters, and who takes from what.

| table | has a row for each |
|---|---|
| `bus` | event that waits for a consumer, or is being handled by it |
| `bus_consumers` | consumer of a topic; a publisher writes a row into `bus` for each of them |
| `bus_dead_letters` | event that a consumer could not handle |
| `bus_members` | bus that is at work: which partitions of which consumers it has, and until when |

`available_at` of `bus` is `AT_ONCE` for what was not postponed, so what is due is found along one
index, whatever waits for later.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import (
    BigInteger,
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
from sqlalchemy.types import TypeEngine

from events.integration.implementation.sqlalchemy._clock import moment
from events.integration.implementation.sqlalchemy.tables import (
    LONGEST_NAME,
    ON_MYSQL,
    FanOut,
    exact,
    info_of,
    message_columns,
    require_columns,
    require_table,
    table_in,
)

__all__ = ["CURE", "MESSAGE", "BusTables", "bus_table", "default_bus_table"]

CURE = (
    "add it to your MetaData with bus_table(metadata), then create it with metadata.create_all or "
    "an Alembic revision; pass table= if it has another name"
)

MESSAGE = ("event_id", "topic", "key", "partition_id", "type", "headers", "body", "created_at")
"""The columns that hold a message."""


def bus_table(metadata: MetaData, name: str = "bus", *, schema: str | None = None) -> Table:
    """Add the tables of the bus to your MetaData, where `create_all` and Alembic see them.

    Besides the one named, which is returned, these are `<name>_consumers`, `<name>_dead_letters`
    and `<name>_members`. Returns the one that is there already if called again with the same name.
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
        Column("id", _long_id(), primary_key=True, autoincrement=True),
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
    return Table(
        name,
        metadata,
        Column("id", _long_id(), primary_key=True, autoincrement=True),
        Column("consumer_id", Integer, nullable=False),
        *_message(),
        Column("available_at", moment(), nullable=False),
        Column("attempts", Integer, nullable=False, server_default=text("0")),
        Index(f"ix_{name}_due", "consumer_id", "available_at", "id"),
        info=info_of(FanOut(consumers, CURE)),
        **options,
    )


def _long_id() -> TypeEngine[int]:
    return BigInteger().with_variant(Integer, "sqlite")


def _message() -> list[Column[Any]]:
    return [column for column in message_columns() if column.name in MESSAGE]


class BusTables:
    """A bus's table with its companions, found by their names.

    Raises `OutboxTableError` if the table given is not what `bus_table` makes.
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

    def __iter__(self) -> Iterator[Table]:
        return iter((self.rows, self.consumers, self.dead_letters, self.members))


def default_bus_table() -> Table:
    """Return the table of the default name, for those who need not name theirs."""
    return _DEFAULT


_DEFAULT = bus_table(MetaData())
