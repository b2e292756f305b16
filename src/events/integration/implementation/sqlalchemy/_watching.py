"""What operators read of an outbox, beside the relays and without their lock."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from events.integration.implementation.sqlalchemy._clock import aware, clock
from events.integration.implementation.sqlalchemy._leases import Leases
from events.integration.implementation.sqlalchemy._opening import connected
from events.integration.implementation.sqlalchemy.tables import Tables
from events.integration.outbox import Lease, ScheduledRow

__all__ = ["Watching"]


class Watching:
    """The rows that wait for their time, and who holds the partitions, of one outbox."""

    def __init__(self, engine: AsyncEngine, tables: Tables, leases: Leases) -> None:
        self._engine = engine
        self._leases = leases
        self._id = tables.outbox.c.id
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
