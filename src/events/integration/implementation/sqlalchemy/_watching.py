"""Queries on an outbox for operators, without the relays' lock."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from events.integration._attributes import encode_value
from events.integration.implementation.sqlalchemy._clock import aware, clock
from events.integration.implementation.sqlalchemy._leases import Leases
from events.integration.implementation.sqlalchemy._opening import connected
from events.integration.implementation.sqlalchemy._reading import message_of
from events.integration.implementation.sqlalchemy.tables import Tables
from events.integration.outbox import Lease, ScheduledRow, WaitingRow


class Watching:
    """The rows that wait for their time, and who holds the partitions, of one outbox."""

    def __init__(self, engine: AsyncEngine, tables: Tables, leases: Leases) -> None:
        self._engine = engine
        self._leases = leases
        self._id = tables.outbox.c.id
        self._columns = tables.outbox.c
        c = tables.outbox.c
        self._scheduled = (
            select(
                c.id, c.event_id, c.topic, c.type, c.key, c.available_at, c.attempts, c.last_error
            )
            .where(c.available_at > clock())
            .order_by(c.id)
        )

    async def scheduled(self, *, limit: int, after: int | None) -> Sequence[ScheduledRow]:
        """See `WatchedOutboxStore.scheduled`."""
        query = self._scheduled.limit(limit)
        if after is not None:
            query = query.where(self._id > after)
        async with connected(self._engine) as connection:
            found = (await connection.execute(query)).all()
        return [
            ScheduledRow(
                id=row.id,
                event_id=row.event_id,
                topic=row.topic,
                type=row.type,
                key=row.key,
                available_at=aware(row.available_at),
                attempts=row.attempts,
                error=row.last_error,
            )
            for row in found
        ]

    async def leases(self) -> Sequence[Lease]:
        """See `WatchedOutboxStore.leases`."""
        async with connected(self._engine) as connection:
            return self._leases.of(await connection.execute(self._leases.query))

    async def waiting_of(self, correlation_id: str, *, limit: int) -> Sequence[WaitingRow]:
        """See `SearchedOutboxStore.waiting_of`. It passes over the whole backlog."""
        c = self._columns
        query = (
            select(
                *(c.id, c.event_id, c.topic, c.key, c.type, c.headers, c.body),
                *(c.created_at, c.available_at, c.attempts, c.last_error),
            )
            # The headers are JSON text: what the database finds there is looked at again below.
            .where(
                or_(
                    c.event_id == correlation_id,
                    c.headers.contains(_in_json(correlation_id), autoescape=True),
                )
            )
            .order_by(c.id)
            .limit(limit)
        )
        async with connected(self._engine) as connection:
            found = (await connection.execute(query)).all()
        rows = [
            WaitingRow(
                id=number,
                message=message_of(*message)[0],
                created_at=aware(created_at),
                available_at=aware(available_at),
                attempts=attempts,
                error=error,
            )
            for number, *message, created_at, available_at, attempts, error in found
        ]
        return [row for row in rows if row.message.correlation_id == correlation_id]


def _in_json(text: str) -> str:
    return msgspec.json.encode(encode_value(text)).decode()[1:-1]
