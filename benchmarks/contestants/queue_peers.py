"""The peers among the queues on PostgreSQL, used as their documentation has it.

They remove an event in a transaction of their own, so what a handler writes may be written twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import msgspec
import procrastinate
from faststream_outbox import OutboxBroker, make_outbox_table
from pgqueuer import AsyncpgPoolDriver, Queries
from pgqueuer import PgQueuer as Manager
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.contestants.queues import (
    FETCHED,
    Effect,
    Handled,
    Put,
    Queue,
    decode,
    encode,
    libpq,
)
from benchmarks.workload import Order, make


class PgQueuer(Queue):
    name = "pgqueuer"

    async def prepare(self) -> None:
        await super().prepare()
        async with asyncpg.create_pool(libpq(self.url), min_size=2, max_size=2) as pool:
            await Queries(AsyncpgPoolDriver(pool)).install()

    @asynccontextmanager
    async def putting(self) -> AsyncGenerator[Put]:
        body = encode(next(make(1)))
        async with asyncpg.create_pool(libpq(self.url), min_size=2, max_size=2) as pool:
            queries = Queries(AsyncpgPoolDriver(pool))

            async def put(events: int) -> None:
                await queries.enqueue(["bench"] * events, [body] * events, [0] * events)

            yield put

    async def work(self, handled: Handled, effect: Effect) -> None:
        async with asyncpg.create_pool(libpq(self.url), min_size=2, max_size=10) as pool:
            manager = Manager(AsyncpgPoolDriver(pool))

            @manager.entrypoint("bench")
            async def handle(job: Any) -> None:
                order = decode(job.payload)
                if effect == "one write":
                    await self.write()
                await handled(order)

            batch = FETCHED if effect == "nothing" else self.at_once
            await manager.run(batch_size=batch, max_concurrent_tasks=2 * batch)


class Procrastinate(Queue):
    name = "procrastinate"

    def _app(self) -> Any:
        return procrastinate.App(
            connector=procrastinate.PsycopgConnector(
                conninfo=libpq(self.url), min_size=2, max_size=self.at_once + 5
            )
        )

    async def prepare(self) -> None:
        await super().prepare()
        app = self._app()
        async with app.open_async():
            await app.schema_manager.apply_schema_async()

    @asynccontextmanager
    async def putting(self) -> AsyncGenerator[Put]:
        app = self._app()
        body = msgspec.to_builtins(next(make(1)))
        async with app.open_async():
            deferrer = app.configure_task("bench", queue="bench")

            async def put(events: int) -> None:
                await deferrer.batch_defer_async(*({"order": body} for _ in range(events)))

            yield put

    async def work(self, handled: Handled, effect: Effect) -> None:
        app = self._app()

        @app.task(name="bench", queue="bench")
        async def handle(order: dict[str, Any]) -> None:
            placed = msgspec.convert(order, Order)
            if effect == "one write":
                await self.write()
            await handled(placed)

        async with app.open_async():
            await app.run_worker_async(
                queues=["bench"],
                concurrency=self.at_once,
                delete_jobs="successful",
                install_signal_handlers=False,
            )


class FastStreamOutbox(Queue):
    name = "faststream-outbox"

    def _broker(self) -> Any:
        self._metadata = MetaData()
        table = make_outbox_table(self._metadata, table_name="fs_outbox")
        return OutboxBroker(self.engine, outbox_table=table)

    async def prepare(self) -> None:
        await super().prepare()
        self._broker()
        async with self.engine.begin() as connection:
            await connection.run_sync(self._metadata.create_all)

    @asynccontextmanager
    async def putting(self) -> AsyncGenerator[Put]:
        broker = self._broker()
        body = msgspec.to_builtins(next(make(1)))

        async def put(events: int) -> None:
            async with AsyncSession(self.engine) as session, session.begin():
                for _ in range(events):
                    await broker.publish(body, queue="bench", session=session)

        yield put

    async def work(self, handled: Handled, effect: Effect) -> None:
        broker = self._broker()

        @broker.subscriber("bench", max_workers=self.at_once, fetch_batch_size=FETCHED)
        async def handle(order: dict[str, Any]) -> None:
            placed = msgspec.convert(order, Order)
            if effect == "one write":
                await self.write()
            await handled(placed)

        async with broker:
            await broker.start()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
