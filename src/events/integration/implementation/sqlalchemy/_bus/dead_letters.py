"""The table of dead letters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, case, delete, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from events.integration.cloudevents import own_id
from events.integration.health import Backlog
from events.integration.implementation.sqlalchemy._bus.tables import MESSAGE, BusTables
from events.integration.implementation.sqlalchemy._clock import aware, moment
from events.integration.implementation.sqlalchemy._opening import begun, connected
from events.integration.implementation.sqlalchemy._reading import message_of
from events.integration.implementation.sqlalchemy.tables import AT_ONCE, MOST_IDS
from events.integration.message import DeadLetter, Message

__all__ = ["TableDeadLetters"]


class TableDeadLetters:
    """A `DeadLetterStore` on the tables. `redriven` is called when rows are due again."""

    def __init__(
        self, engine: AsyncEngine, tables: BusTables, redriven: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._rows = tables.rows
        self._dead = tables.dead_letters
        self._consumers = tables.consumers
        self._redriven = redriven

    async def read(self, consumer: str, *, limit: int, after: str | None) -> Sequence[DeadLetter]:
        """See `DeadLetterStore.read`."""
        d = self._dead.c
        columns = (d.event_id, d.topic, d.key, d.type, d.headers, d.body)
        query = select(d.id, *columns, d.reason, d.error, d.attempts, d.died_at)
        query = query.where(d.consumer == consumer).order_by(d.id).limit(limit)
        if after is not None:
            query = query.where(d.id > int(after))
        async with connected(self._engine) as connection:
            found = (await connection.execute(query)).all()
        return [
            DeadLetter(
                str(number),
                consumer,
                _as_logged(message_of(*message)[0]),
                reason,
                error,
                attempts,
                aware(died_at),
            )
            for number, *message, reason, error, attempts, died_at in found
        ]

    async def redrive(self, consumer: str, ids: Sequence[str]) -> Sequence[str]:
        """See `DeadLetterStore.redrive`."""
        found = await self._take_all(consumer, ids, back=True)
        self._redriven()
        return found

    async def discard(self, consumer: str, ids: Sequence[str]) -> Sequence[str]:
        """See `DeadLetterStore.discard`."""
        return await self._take_all(consumer, ids, back=False)

    async def backlog(self, consumer: str, topics: Sequence[str]) -> Backlog:
        """See `BacklogSource`. A row that is being handled waits like the others."""
        rows, consumers, dead = self._rows.c, self._consumers.c, self._dead.c
        now = datetime.now(UTC)
        theirs = (rows.consumer_id == consumers.id) & (consumers.consumer == consumer)
        counts = select(
            func.count(),
            func.coalesce(func.sum(case((rows.available_at > now, 1), else_=0)), 0),
            func.min(case((rows.available_at <= now, rows.created_at), else_=None)),
        ).where(theirs, consumers.topic.in_(topics))
        kept = select(func.count()).where(dead.consumer == consumer)
        async with connected(self._engine) as connection:
            total, delayed, oldest = (await connection.execute(counts)).one()
            letters = (await connection.scalars(kept)).one()
        age = None if oldest is None else max(0.0, (now - aware(oldest)).total_seconds())
        return Backlog(total - int(delayed), letters, delayed=int(delayed), oldest_age=age)

    async def _take_all(self, consumer: str, ids: Sequence[str], *, back: bool) -> list[str]:
        # In order, so that two who take the same do not deadlock.
        rest, found = sorted({int(each) for each in ids if each.isdecimal()}), list[int]()
        async with begun(self._engine) as connection:
            while rest:
                some = rest[:MOST_IDS]
                found += await connection.run_sync(self._take, consumer, some, back=back)
                del rest[:MOST_IDS]
        return [str(number) for number in found]

    def _take(
        self, connection: Connection, consumer: str, ids: Sequence[int], *, back: bool
    ) -> Sequence[int]:
        d = self._dead.c
        these = d.id.in_(ids) & (d.consumer == consumer)
        # Locked first: who asks for the same rows at the same time must not find them afterwards.
        connection.execute(update(self._dead).where(these).values(attempts=d.attempts))
        found = list(connection.execute(select(d.id).where(these).order_by(d.id)).scalars())
        if back and found:
            connection.execute(
                insert(self._rows).from_select(
                    ["consumer_id", *MESSAGE, "attempts", "available_at"],
                    select(
                        d.consumer_id,
                        *(d[name] for name in MESSAGE),
                        literal(0),
                        literal(AT_ONCE, moment()),
                    )
                    .where(these)
                    .order_by(d.id),
                )
            )
        connection.execute(delete(self._dead).where(these))
        return found


def _as_logged(message: Message) -> Message:
    """Return it with the id that it was delivered under: an envelope has its own."""
    event_id = own_id(message.headers, message.body)
    if event_id in {None, message.id}:
        return message
    return Message(
        message.topic,
        message.type,
        event_id or message.id,
        message.body,
        message.headers,
        message.key,
    )
