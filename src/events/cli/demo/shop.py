"""The shop of the demo: orders, a printer of receipts, and a database file.

It needs no server. Tables of the database carry the events, as they can in production.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Column, Integer, MetaData, Table, func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from events.integration import EventHandlerConsumer, IntegrationEvent, RetryPolicy, Topic
from events.sqlalchemy import SQLAlchemyBus, bus_table, current_session, enable_wal

ORDERS = Topic("orders")


@dataclass(frozen=True)
class OrderPlaced(IntegrationEvent):
    """An order was placed."""

    type = "demo.order.placed"
    version = 1

    number: int


metadata = MetaData()
bus_table(metadata)
orders = Table("orders", metadata, Column("number", Integer, primary_key=True))
receipts = Table("receipts", metadata, Column("number", Integer, primary_key=True))


class OutOfPaperError(Exception):
    """The printer has no paper."""


class Shop:
    """Places orders, and prints a receipt for each while there is paper."""

    def __init__(self, engine: AsyncEngine, say: Callable[[str], None]) -> None:
        self.has_paper = True
        self._say = say
        self._sessions = async_sessionmaker(engine)
        self.printer = EventHandlerConsumer("printer", {OrderPlaced: self._print_receipt})
        retry = RetryPolicy(attempts=3, delay=0.2, factor=1.0)
        registration = self.printer.subscribe(ORDERS, retry=retry)
        self.bus = SQLAlchemyBus(engine, [registration], sessions=self._sessions)

    async def place(self) -> int:
        """Store an order and send its event, in one transaction."""
        async with self._sessions() as session:
            added = await session.execute(insert(orders).returning(orders.c.number))
            number: int = added.scalar_one()
            # One key for all: there is one printer, which prints in the order of the orders.
            await self.bus.outbox(session).put(ORDERS, OrderPlaced(number), key="printer")
            await session.commit()
        self._say(f"placed order {number}")
        return number

    async def _print_receipt(self, event: OrderPlaced) -> None:
        if not self.has_paper:
            raise OutOfPaperError(f"no paper for the receipt of order {event.number}")
        await current_session().execute(insert(receipts).values(number=event.number))
        self._say(f"printed receipt {event.number}")

    async def counts(self) -> Counts:
        """Count the orders, their receipts and the dead letters."""
        async with self._sessions() as session:
            placed = await session.scalar(select(func.count()).select_from(orders))
            printed = await session.scalar(select(func.count()).select_from(receipts))
        dead = (await self.bus.backlog(self.printer)).dead_letters
        return Counts(placed or 0, printed or 0, dead)


class Counts(NamedTuple):
    """Counts of events. An event that is neither handled nor a dead letter is in flight."""

    placed: int
    printed: int
    dead: int

    @property
    def settled(self) -> bool:
        """Return whether no event is in flight."""
        return self.placed <= self.printed + self.dead


@asynccontextmanager
async def opened(say: Callable[[str], None]) -> AsyncGenerator[Shop]:
    """Open a shop with a new database, which is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="events-demo-") as folder:
        path = Path(folder) / "shop.db"
        say(f"The database is {path}. It also carries the events: there is no server.")
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        try:
            await enable_wal(engine)
            async with engine.begin() as connection:
                await connection.run_sync(metadata.create_all)
            shop = Shop(engine, say)
            async with shop.bus:
                yield shop
        finally:
            await engine.dispose()
