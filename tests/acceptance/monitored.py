"""A service that Prometheus can scrape: an outbox, a bus, and a consumer that fails now and then.

    python -m tests.acceptance.monitored FOLDER PORT

It says `ready` when it has handled its events, and lives until somebody ends it.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import start_http_server
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from events.integration import (
    EventHandlerConsumer,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    OutboxRelay,
    RetryPolicy,
    Topic,
)
from events.memory import MemoryBus
from events.opentelemetry import Measuring, instrument
from events.operations import Consumers
from events.sqlalchemy import (
    SQLAlchemyInbox,
    SQLAlchemyOutbox,
    SQLAlchemyOutboxStore,
    inbox_table,
    outbox_table,
)
from events.testing import until_quiet

ORDERS = Topic("orders")


@dataclass(frozen=True)
class OrderPlacedV1(IntegrationEvent):
    type = "order.placed"
    version = 1
    number: int


async def charge(event: OrderPlacedV1) -> None:
    if event.number == 3:
        raise ValueError("a card was refused")


async def serve(folder: Path, port: int) -> None:
    metrics.set_meter_provider(MeterProvider([PrometheusMetricReader()]))
    instrument()
    start_http_server(port, "127.0.0.1")
    engine = create_async_engine(f"sqlite+aiosqlite:///{folder / 'orders.sqlite3'}")
    tables = MetaData()
    outbox_table(tables)
    inbox_table(tables)
    async with engine.begin() as connection:
        await connection.run_sync(tables.create_all)
    consumer = EventHandlerConsumer("billing", {OrderPlacedV1: [charge]})
    retry = RetryPolicy(attempts=2, delay=0.01)
    bus = MemoryBus(
        [IntegrationEventBusRegistration(consumer, ORDERS, retry=retry)],
        middlewares=[SQLAlchemyInbox(async_sessionmaker(engine))],
    )
    relay = OutboxRelay(SQLAlchemyOutboxStore(engine), bus)
    async with bus, relay, Measuring(relay, bus, every=1):
        async with AsyncSession(engine) as session:
            for number in range(5):
                await SQLAlchemyOutbox(session).put(ORDERS, OrderPlacedV1(number))
            await session.commit()
        await relay.drain()
        await until_quiet(bus, 120)
        await bus.send(ORDERS, OrderPlacedV1(10), id="twice")
        await bus.send(ORDERS, OrderPlacedV1(10), id="twice")
        await until_quiet(bus, 120)
        operator = Consumers(bus, actor="anna")
        await operator.pause("billing")
        await operator.resume("billing")
        print("ready", flush=True)  # noqa: T201 - for the parent process
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
