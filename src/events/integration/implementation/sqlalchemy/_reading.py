"""Reading what is due: the relay's query, a connection for it, and what a row becomes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Integer,
    Select,
    bindparam,
    case,
    exists,
    false,
    func,
    literal,
    select,
    text,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from events.errors import OutboxError
from events.integration.implementation.sqlalchemy._clock import clock, moment
from events.integration.implementation.sqlalchemy._opening import begun, connected
from events.integration.implementation.sqlalchemy.tables import AT_ONCE, Tables
from events.integration.message import Message
from events.integration.outbox import Lease

_HIGHEST = (1 << 63) - 1  # no row has this id
_MANY = 100  # rows, for which a transaction of its own is worth its round trips
_WALK = text("SET LOCAL enable_sort = off")
_decode_headers = msgspec.json.Decoder(dict[str, str]).decode


@asynccontextmanager
async def reading_due(
    engine: AsyncEngine, single: AsyncEngine, limit: int, *, is_backlog: bool
) -> AsyncGenerator[AsyncConnection]:
    """Open a connection for queries of what is due, in an index's order.

    `single` is an engine for one statement. PostgreSQL takes a walk along an index of a table that
    it has not analyzed to cost a page for each row. So of tens of thousands that wait it would sort
    all, again for each batch. To forbid that takes a transaction, so a read of few rows, and one
    that may find nothing, do without.
    """
    if not is_backlog or limit < _MANY or single.dialect.name != "postgresql":
        async with connected(single) as connection:
            yield connection
        return
    async with begun(engine) as connection:
        await connection.execute(_WALK)
        yield connection


class DueQuery:
    """The rows that are due, from the beginning of the table or on from an id.

    There are two halves: what is due at once, by id, and what was postponed until now, by its time.
    Each is a walk along the index that ends with the limit; one for both would have what was
    postponed wait for the whole backlog. The conditions are inequalities, and none of them the two
    ends of one interval, where PostgreSQL would otherwise take them to leave so few rows, of a
    table it has no statistics of, that it sorts.
    """

    def __init__(self, tables: Tables, dialect: str) -> None:
        self._tables = tables
        self._on_postgresql = dialect == "postgresql"
        # Of the body's bytes; neither has PostgreSQL or SQLite read the body for it.
        size = func.length if dialect == "sqlite" else func.octet_length
        self._size = size(tables.outbox.c.body, type_=BigInteger())
        self._scan = self._make(scan=True)
        self._on = self._make(scan=False)

    def __call__(
        self, lease: Lease, limit: int, after: int | None, longest: int
    ) -> tuple[Any, dict[str, Any]]:
        """Return the statement and its parameters. Of a body that is longer it gives None."""
        values: dict[str, Any] = {
            "limit": limit,
            "longest": longest,
            "relay": lease.relay,
            "token": lease.token,
            "partitions": sum(1 << partition for partition in lease.partitions),
        }
        if after is None:
            return self._scan, values
        return self._on, values | {"after": after}

    def _make(self, *, scan: bool) -> Any:
        c = self._tables.outbox.c
        at_once = c.available_at <= AT_ONCE if self._on_postgresql else c.available_at == AT_ONCE
        after = bindparam("after", type_=BigInteger())
        if scan:
            first = self._half(false(), at_once)
        elif self._on_postgresql:  # this alone is where its walk along the index begins
            first = self._half(false(), at_once, self._behind(after))
        else:
            first = self._half(false(), at_once, c.id > after)
        if not scan:
            return first
        postponed = self._behind(_HIGHEST) if self._on_postgresql else c.available_at > AT_ONCE
        later = self._half(true(), postponed, c.available_at <= clock())
        return union_all(select(first.subquery()), select(later.subquery()))

    def _behind(self, row: int | BindParameter[int]) -> ColumnElement[bool]:
        """Return the condition for what the index has behind this row among those due at once."""
        c = self._tables.outbox.c
        return tuple_(c.available_at, c.id) > tuple_(literal(AT_ONCE, moment()), row)

    def _half(
        self, postponed: ColumnElement[bool], *where: ColumnElement[bool]
    ) -> Select[*tuple[Any, ...]]:
        c, relays = self._tables.outbox.c, self._tables.relays.c
        partitions = bindparam("partitions", type_=BigInteger())
        # Written into the statement: a plan for any limit at all would be one for a large one.
        limit = bindparam("limit", type_=Integer(), literal_execute=True)
        longest = bindparam("longest", type_=BigInteger())
        return (
            select(
                c.id,
                c.event_id,
                c.topic,
                c.key,
                c.type,
                c.headers,
                case((self._size <= longest, c.body)).label("body"),
                self._size.label("size"),
                c.attempts,
                postponed.label("was_postponed"),
            )
            .where(
                *where,
                # The set as bits, where PostgreSQL does not think that it can use an index.
                partitions.bitwise_rshift(c.partition_id).bitwise_and(1) != 0,
                exists().where(
                    relays.relay == bindparam("relay"), relays.token == bindparam("token")
                ),
            )
            .order_by(c.available_at, c.id)
            .limit(limit)
        )


def message_of(
    event_id: str,
    topic: str,
    key: str | None,
    event_type: str,
    headers: str,
    body: object,  # bytes, unless SQLite was given what the column should not hold
) -> tuple[Message, OutboxError | None]:
    """Return a row's message, and what is wrong with it."""
    decoded, content, fault = read_row(headers, body)
    return Message(topic, event_type, event_id, content, decoded, key), fault


def read_row(headers: str, body: object) -> tuple[dict[str, str], bytes, OutboxError | None]:
    """Return a row's headers and body, and what is wrong with them."""
    fault: OutboxError | None = None
    decoded: dict[str, str] = {}
    try:
        decoded = _decode_headers(headers)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this row's
        fault = OutboxError(f"its headers are not a JSON object of strings: {error}")
    if not isinstance(body, bytes):
        fault = OutboxError(f"its body does not hold bytes, but {type(body).__name__}")
        body = b""
    return decoded, body, fault
