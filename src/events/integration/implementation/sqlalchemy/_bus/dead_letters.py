"""The table of dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    case,
    delete,
    func,
    insert,
    literal,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from events.integration.cloudevents import own_id
from events.integration.health import Backlog
from events.integration.implementation.sqlalchemy._bus.reaching import begun, connected
from events.integration.implementation.sqlalchemy._bus.tables import (
    MESSAGE,
    REDRIVEN,
    BusTables,
)
from events.integration.implementation.sqlalchemy._clock import aware, moment
from events.integration.implementation.sqlalchemy._reading import message_of
from events.integration.implementation.sqlalchemy.tables import MOST_IDS
from events.integration.message import DeadLetter, Message
from events.integration.paging import as_number, number_after

_HEADS = 2_000  # rows of a page, whose errors have 8,000 characters at most


class RowReceipt:
    """A `Receipt` by the row of an event, which its consumer deletes when it has handled it."""

    def __init__(self, engine: AsyncEngine, left: Select[int]) -> None:
        self._engine = engine
        self._left = left

    async def is_handled(self) -> bool:
        """See `Receipt`."""
        async with connected(self._engine) as connection:
            return not (await connection.scalars(self._left)).one()


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
        query = select(d.consumer, d.id, *columns, d.reason, d.error, d.attempts, d.died_at)
        found = await self._page(query, consumer, number_after(after), limit)
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
            for _, number, *message, reason, error, attempts, died_at in found
        ]

    async def scan_heads(self, consumer: str) -> AsyncGenerator[Sequence[DeadLetter]]:
        """See `HeadSource.scan_heads`. Neither bodies nor headers leave the database."""
        d = self._dead.c
        columns = (d.event_id, d.topic, d.type, d.reason, d.error, d.attempts, d.died_at)
        query = select(d.consumer, d.id, *columns)
        after, full = 0, True
        while full:
            found = await self._page(query, consumer, after, _HEADS)
            full = len(found) == _HEADS
            if full:
                after = found[-1].id
            yield [
                DeadLetter(
                    str(number),
                    consumer,
                    Message(topic, type_, event_id, b"", {}),
                    reason,
                    error,
                    attempts,
                    aware(died_at),
                )
                for _, number, event_id, topic, type_, reason, error, attempts, died_at in found
            ]

    async def _page(
        self, query: Select[*tuple[Any, ...]], consumer: str, after: int, limit: int
    ) -> Sequence[Row[*tuple[Any, ...]]]:
        """Return the next rows of a consumer, along the index.

        On PostgreSQL the condition has no end, and rows of the next consumer are left out here:
        with an end it sorts all rows of the consumer for each page while it has no statistics.
        """
        d = self._dead.c
        behind: ColumnElement[bool] = (d.consumer == consumer) & (d.id > after)
        if self._engine.dialect.name == "postgresql":
            behind = tuple_(d.consumer, d.id) > tuple_(literal(consumer), literal(after))
        query = query.where(behind).order_by(d.consumer, d.id).limit(limit)
        async with connected(self._engine) as connection:
            found = (await connection.execute(query)).all()
        return [row for row in found if row.consumer == consumer]

    async def redrive(self, consumer: str, ids: Sequence[str]) -> Sequence[str]:
        """See `DeadLetterStore.redrive`."""
        found = await self._take_all(consumer, ids, back=True)
        self._redriven()
        return found

    async def redrive_with_receipt(self, consumer: str, id: str) -> RowReceipt | None:
        """See `ReceiptSource`. A row is there until it is handled, or dead."""
        d = self._dead.c
        number = as_number(id)
        if number is None:
            return None
        query = select(d.event_id, d.consumer_id).where(d.id == number, d.consumer == consumer)
        async with connected(self._engine) as connection:
            found = (await connection.execute(query)).first()
        if found is None or not await self.redrive(consumer, [id]):
            return None
        r = self._rows.c
        left = select(func.count()).where(
            r.event_id == found.event_id, r.consumer_id == found.consumer_id
        )
        return RowReceipt(self._engine, left)

    async def discard(self, consumer: str, ids: Sequence[str]) -> Sequence[str]:
        """See `DeadLetterStore.discard`."""
        return await self._take_all(consumer, ids, back=False)

    async def backlog(self, consumer: str, topics: Sequence[str]) -> Backlog:
        """See `BacklogSource`. A row that is being handled counts as waiting, and nowhere else."""
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
        return Backlog(total - int(delayed), letters, 0, int(delayed), age)

    async def _take_all(self, consumer: str, ids: Sequence[str], *, back: bool) -> list[str]:
        """Take these in one transaction, which a cancellation does not break off half-way.

        On SQLite a connection that was left in one would lock all others out.
        """
        taking = asyncio.create_task(self._take_in_one(consumer, ids, back=back))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            await asyncio.wait([taking])
            raise

    async def _take_in_one(self, consumer: str, ids: Sequence[str], *, back: bool) -> list[str]:
        # In order, so that two who take the same do not deadlock.
        numbers = {number for each in ids if (number := as_number(each)) is not None}
        rest, found = sorted(numbers), list[int]()
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
                        literal(REDRIVEN, moment()),
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
    return message if event_id in {None, message.id} else replace(message, id=event_id)
