"""The bus's rows under the inbox contract: what is handled is removed, in the same transaction.

A delivery of the contract is of a row that waits for its consumer; the same delivery again is of the
same row, as when a process has died with it. As a program, a worker that dies on it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from hashlib import sha256

from msgspec.structs import replace
from sqlalchemy import BigInteger, Column, String, Table, insert, make_url, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from events.integration import Delivery, IncomingEvent
from events.integration.implementation.sqlalchemy import bus_table
from events.integration.implementation.sqlalchemy._bus.handling import RowTransactions
from events.integration.implementation.sqlalchemy._bus.rows import Found
from events.integration.implementation.sqlalchemy._bus.tables import BusTables
from events.integration.implementation.sqlalchemy.tables import AT_ONCE
from events.integration.pipeline import Handle
from events.testing.contracts.inbox import handle_and_die
from tests.contracts.sqlalchemy_inbox import SQLAlchemyInboxDatabase


class SQLAlchemyBusDatabase(SQLAlchemyInboxDatabase):
    """`inbox` is what the bus has around its handlers, with a row found for each delivery."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine)
        self._bus = bus_table(self.metadata)
        self._delivered = Table(
            "delivered",
            self.metadata,
            Column("name", String(64), primary_key=True),
            Column("row", BigInteger, nullable=False),
        )
        self.removed: list[int] = []
        self._transactions = RowTransactions(
            self.sessions, BusTables(self._bus), self.removed.append
        )
        self._finding = asyncio.Lock()
        self.inbox = self._deliver  # type: ignore[assignment] # of the suite's protocol all the same

    @property
    def worker_command(self) -> Sequence[str]:
        url = self.engine.url.render_as_string(hide_password=False)
        return [sys.executable, "-m", "tests.contracts.sqlalchemy_bus_rows", url]

    async def rows(self) -> int:
        return await self._count(self._delivered) - await self._count(self._bus)

    async def _deliver(self, incoming: IncomingEvent, call_next: Handle, /) -> None:
        delivery = incoming.delivery
        queued = Found(
            delivery.topic,
            delivery.consumer,
            delivery.id,
            delivery.body,
            delivery.headers,
            row=await self._row_of(delivery),
            partition=0,
            was_postponed=False,
        )
        await self._transactions(replace(incoming, delivery=queued), call_next)

    async def _row_of(self, delivery: Delivery) -> int:
        """Return the row of this delivery; create it for the first of its kind."""
        name = sha256(repr((delivery.consumer, delivery.id)).encode()).hexdigest()
        found = select(self._delivered.c.row).where(self._delivered.c.name == name)
        async with self._finding, self.engine.begin() as connection:
            row = (await connection.execute(found)).scalar_one_or_none()
            if row is None:
                made = await connection.execute(insert(self._bus).values(_ROW))
                assert made.inserted_primary_key is not None
                row = made.inserted_primary_key[0]
                await connection.execute(insert(self._delivered).values(name=name, row=row))
        return int(row)


_ROW = {
    "consumer_id": 1,
    "event_id": "of the contract",
    "topic": "inbox-contract",
    "partition_id": 0,
    "type": "events.testing.noted",
    "headers": "{}",
    "body": b"{}",
    "created_at": AT_ONCE,
    "available_at": AT_ONCE,
}


async def main(url: str, step: str) -> None:
    engine = create_async_engine(make_url(url))
    await handle_and_die(SQLAlchemyBusDatabase(engine), step)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
