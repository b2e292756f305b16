"""Reading what is due, no more of it than a batch may weigh.

Short bodies come with their rows, as nearly all are. How short that is follows from the bounds of
the batch: as many rows as there may be cannot weigh more together. Of longer ones there comes the
length alone, and in a second query the body, of as many as the batch may have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, bindparam, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from events.integration.implementation.sqlalchemy._reading import (
    DueQuery,
    message_of,
    reading_due,
)
from events.integration.implementation.sqlalchemy.tables import Tables
from events.integration.outbox import Lease, OutboxRow

_UNBOUNDED = (1 << 63) - 1


class Due:
    """The rows that are due, for one outbox."""

    def __init__(self, engine: AsyncEngine, single: AsyncEngine, tables: Tables) -> None:
        c = tables.outbox.c
        self._engine = engine
        self._single = single
        self._is_backlog = False  # as far as the last read knows
        self._query = DueQuery(tables, engine.dialect.name)
        these = bindparam("ids", type_=BigInteger(), expanding=True)
        self._bodies = select(c.id, c.body).where(c.id.in_(these))

    async def __call__(
        self, lease: Lease, limit: int, after: int | None, max_bytes: int | None
    ) -> Sequence[OutboxRow]:
        """See `OutboxStore.due`."""
        # A scan has two halves, each of which may have as many rows.
        longest = _UNBOUNDED if max_bytes is None else max_bytes // (2 * limit)
        statement, values = self._query(lease, limit, after, longest)
        rows: list[OutboxRow] = []
        is_backlog, engine = self._is_backlog, self._engine
        async with reading_due(engine, self._single, limit, is_backlog=is_backlog) as connection:
            found: Sequence[Any] = (await connection.execute(statement, values)).all()
            self._is_backlog = len(found) >= limit
            taken = found if max_bytes is None else _up_to(found, max_bytes)
            bodies = await self._long(connection, [r.id for r in taken if r.size > longest])
        for r in taken:
            if r.size > longest and r.id not in bodies:
                continue  # it was deleted by hand
            body = bodies[r.id] if r.size > longest else r.body
            message, fault = message_of(r.event_id, r.topic, r.key, r.type, r.headers, body)
            rows.append(OutboxRow(r.id, message, r.attempts, bool(r.was_postponed), fault))
        rows.sort(key=_id)
        return rows

    async def _long(self, connection: AsyncConnection, ids: Sequence[int]) -> dict[int, object]:
        if not ids:
            return {}
        found = await connection.execute(self._bodies, {"ids": ids})
        return {row.id: row.body for row in found}


def _up_to(rows: Sequence[Any], max_bytes: int) -> list[Any]:
    """Return as many as weigh so much, of what was postponed as well as of the rest.

    Of each its own half: what was postponed would else wait for the whole backlog.
    """
    weights: defaultdict[bool, int] = defaultdict(int)
    taken: list[Any] = []
    for row in rows:
        half = bool(row.was_postponed)
        if weights[half] < max_bytes:
            weights[half] += row.size
            taken.append(row)
    return taken


def _id(row: OutboxRow) -> int:
    return row.id
