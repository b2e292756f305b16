"""Queues on a database: ours, the peers, and what people write by hand.

Each has a database of its own with an empty table `app`. Its handler does nothing, or writes a row
to `app` by a SQLAlchemy session. In ours and in those by hand that row and the removal of the event
are one transaction; the peers remove the event in a transaction of their own.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from typing import Any, ClassVar, Literal, TypeAlias, cast

import aiosqlite
import asyncmy
import asyncpg
import msgspec
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    insert,
    select,
)
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    async_sessionmaker,
    create_async_engine,
)

from benchmarks.contestants.ours import CONSUMER
from benchmarks.workload import Order, OrderPlaced, make
from events.integration import (
    EventHandlerConsumer,
    IntegrationEventBusRegistration,
    Topic,
)
from events.integration.implementation.sqlalchemy import (
    SQLAlchemyIntegrationEventBus,
    bus_table,
    current_session,
    enable_wal,
)

Effect: TypeAlias = Literal["nothing", "one write"]
Handled: TypeAlias = Callable[[Order], Awaitable[None]]
Put: TypeAlias = Callable[[int], Awaitable[None]]
"""Put so many events in one transaction."""

METADATA = MetaData()
APP = Table(
    "app",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("note", String(100)),
)
WRITE = insert(APP).values(note="an order was placed").inline()
CHUNK = 1_000  # events that are put in one transaction
FETCHED = 100  # rows at once, for those that read in batches

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Order).decode


def pooled(url: str, at_once: int) -> AsyncEngine:
    """Make an engine that has a connection for each worker, and a few for itself."""
    return create_async_engine(url, pool_size=at_once + 5)


class Queue(ABC):
    """One way to have events wait in a database."""

    name: ClassVar[str]
    effects: ClassVar[tuple[Effect, ...]] = ("nothing", "one write")

    def __init__(self, url: str, at_once: int) -> None:
        self.url = url
        self.at_once = at_once
        self.engine = pooled(url, at_once)
        self.sessions = async_sessionmaker(self.engine, expire_on_commit=False)

    async def prepare(self) -> None:
        """Make the tables."""
        if self.engine.dialect.name == "sqlite":
            await enable_wal(self.engine)
        async with self.engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)

    @abstractmethod
    def putting(self) -> AbstractAsyncContextManager[Put]:
        """Connect to put events."""

    async def fill(self, events: int) -> None:
        """Put so many, a thousand in a transaction."""
        async with self.putting() as put:
            for start in range(0, events, CHUNK):
                await put(min(CHUNK, events - start))

    @abstractmethod
    async def work(self, handled: Handled, effect: Effect) -> None:
        """Handle what is there and what comes, until it is cancelled."""

    @asynccontextmanager
    async def working(self, handled: Handled, effect: Effect) -> AsyncGenerator[None]:
        """Work within the block."""
        task = asyncio.create_task(self.work(handled, effect))
        failed = asyncio.create_task(_raise_from(task))
        try:
            yield
        finally:
            failed.cancel()
            task.cancel()
            await asyncio.wait([task], timeout=10)

    async def write(self) -> None:
        """Write what the handler writes, by a session of its own."""
        async with self.sessions() as session:
            await session.execute(WRITE)
            await session.commit()

    async def close(self) -> None:
        await self.engine.dispose()


async def _raise_from(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])
    if not task.cancelled() and task.exception() is not None:
        asyncio.get_running_loop().call_exception_handler(
            {"message": "a queue failed", "exception": task.exception()}
        )


class Ours(Queue):
    """The bus. `consumers` is how many each event is for."""

    name = "ours"

    def __init__(self, url: str, at_once: int, *, consumers: int = 1) -> None:
        super().__init__(url, at_once)
        self.consumers = consumers
        self.topic = Topic("bench")

    def bus(
        self, handled: Handled | None = None, effect: Effect = "nothing"
    ) -> SQLAlchemyIntegrationEventBus:
        async def handle(event: OrderPlaced) -> None:
            if effect == "one write":
                await current_session().execute(WRITE)
            if handled is not None:
                await handled(event)

        registrations = [
            IntegrationEventBusRegistration(
                EventHandlerConsumer(f"{CONSUMER}-{number}", {OrderPlaced: handle}),
                self.topic,
                [OrderPlaced],
                concurrency=self.at_once,
            )
            for number in range(self.consumers)
        ]
        sessions = self.sessions if effect == "one write" else None
        return SQLAlchemyIntegrationEventBus(self.engine, registrations, sessions=sessions)

    async def prepare(self) -> None:
        await super().prepare()
        metadata = MetaData()
        bus_table(metadata)
        async with self.engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        async with self.bus():
            pass  # its consumers are known from now on

    @asynccontextmanager
    async def putting(self) -> AsyncGenerator[Put]:
        async with SQLAlchemyIntegrationEventBus(self.engine) as bus:

            async def put(events: int) -> None:
                orders = list(make(events, OrderPlaced))
                await bus.send_many(self.topic, cast("Any", orders))

            yield put

    async def work(self, handled: Handled, effect: Effect) -> None:
        async with self.bus(handled, effect):
            await asyncio.Event().wait()


BY_HAND = Table(
    "jobs",
    METADATA,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("body", JSON),
)


class ByHand(Queue):
    """A table with a body in it."""

    @asynccontextmanager
    async def putting(self) -> AsyncGenerator[Put]:
        body = msgspec.to_builtins(next(make(1)))
        ids = count(1)

        async def put(events: int) -> None:
            rows = [{"id": next(ids), "body": body} for _ in range(events)]
            async with self.engine.begin() as connection:
                await connection.execute(insert(BY_HAND), rows)

        yield put


class NoQueue(ByHand):
    """The transaction alone, of a delete and the write, on rows that are known beforehand.

    It is the limit for a queue that handles an event and removes its row in one transaction.
    """

    effects = ("one write",)

    async def work(self, handled: Handled, effect: Effect) -> None:
        async with self.engine.connect() as connection:
            ids = iter((await connection.scalars(select(BY_HAND.c.id))).all())
        order = next(make(1))
        async with asyncio.TaskGroup() as group:
            for _ in range(self.at_once):
                group.create_task(self._work(ids, order, handled))

    @abstractmethod
    async def _work(self, ids: Iterator[int], order: Order, handled: Handled) -> None: ...


class SessionByHand(NoQueue):
    name = "a session by hand, no queue"

    async def _work(self, ids: Iterator[int], order: Order, handled: Handled) -> None:
        for number in ids:
            async with self.sessions() as session:
                await session.execute(delete(BY_HAND).where(BY_HAND.c.id == number))
                await session.execute(WRITE)
                await session.commit()
            await handled(order)


class AsyncpgByHand(NoQueue):
    name = "asyncpg by hand, no queue"

    async def _work(self, ids: Iterator[int], order: Order, handled: Handled) -> None:
        connection = await asyncpg.connect(libpq(self.url))
        try:
            for number in ids:
                async with connection.transaction():
                    await connection.execute("DELETE FROM jobs WHERE id = $1", number)
                    await connection.execute("INSERT INTO app (note) VALUES ($1)", "an order")
                await handled(order)
        finally:
            await connection.close()


class AsyncmyByHand(NoQueue):
    name = "asyncmy by hand, no queue"

    async def _work(self, ids: Iterator[int], order: Order, handled: Handled) -> None:
        url = self.engine.url
        connection = await asyncmy.connect(
            host=url.host, port=url.port or 3306, user=url.username, password=url.password or "",
            database=url.database,
        )  # fmt: skip
        try:
            async with connection.cursor() as cursor:
                for number in ids:
                    await connection.begin()
                    await cursor.execute("DELETE FROM jobs WHERE id = %s", (number,))
                    await cursor.execute("INSERT INTO app (note) VALUES (%s)", ("an order",))
                    await connection.commit()
                    await handled(order)
        finally:
            connection.close()


class AiosqliteByHand(NoQueue):
    name = "aiosqlite by hand, no queue"

    async def _work(self, ids: Iterator[int], order: Order, handled: Handled) -> None:
        async with aiosqlite.connect(str(self.engine.url.database)) as connection:
            for number in ids:
                await connection.execute("DELETE FROM jobs WHERE id = ?", (number,))
                await connection.execute("INSERT INTO app (note) VALUES (?)", ("an order",))
                await connection.commit()
                await handled(order)


class SkipLocked(ByHand):
    """The queue of many a blog post, and of pgmq without its archive: one row per transaction."""

    name = "SKIP LOCKED by hand, by a session"

    async def work(self, handled: Handled, effect: Effect) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self.at_once):
                group.create_task(self._take(handled, effect))

    async def _take(self, handled: Handled, effect: Effect) -> None:
        first = select(BY_HAND.c.id).order_by(BY_HAND.c.id).limit(1)
        first = first.with_for_update(skip_locked=True)
        taken = BY_HAND.c.id == first.scalar_subquery()
        take = delete(BY_HAND).where(taken).returning(BY_HAND.c.body)
        while True:
            async with self.sessions() as session:
                body = (await session.execute(take)).scalar_one_or_none()
                if body is None:
                    await session.rollback()
                    await asyncio.sleep(0.05)
                    continue
                await handled(msgspec.convert(body, Order))
                if effect == "one write":
                    await session.execute(WRITE)
                await session.commit()


class Batches(ByHand):
    """pgmq's way: a batch is read by moving its `vt` on, and deleted when all are handled."""

    name = "batches by hand, as pgmq (read, then delete)"
    effects = ("nothing",)

    async def prepare(self) -> None:
        await super().prepare()
        async with self.engine.begin() as connection:
            await connection.exec_driver_sql(
                "ALTER TABLE jobs ADD vt timestamptz NOT NULL DEFAULT now(), "
                "ADD read_ct int NOT NULL DEFAULT 0"
            )
            await connection.exec_driver_sql("CREATE INDEX jobs_vt ON jobs (vt)")

    async def work(self, handled: Handled, effect: Effect) -> None:
        connection = await asyncpg.connect(libpq(self.url))
        try:
            while True:
                rows = await connection.fetch(_READ, FETCHED)
                if not rows:
                    await asyncio.sleep(0.05)
                    continue
                await asyncio.gather(*(handled(decode(row["body"])) for row in rows))
                ids = [row["id"] for row in rows]
                await connection.execute("DELETE FROM jobs WHERE id = ANY($1)", ids)
        finally:
            await connection.close()


_READ = """
    WITH found AS (
        SELECT id FROM jobs WHERE vt <= clock_timestamp() ORDER BY id LIMIT $1
        FOR UPDATE SKIP LOCKED
    )
    UPDATE jobs SET vt = clock_timestamp() + interval '30 seconds', read_ct = read_ct + 1
    FROM found WHERE jobs.id = found.id RETURNING jobs.id, jobs.body::text AS body
"""


def libpq(url: str) -> str:
    """Return the URL as drivers without SQLAlchemy take it."""
    return url.replace("postgresql+asyncpg", "postgresql")
