"""Ways to empty an outbox: ours, row by row, and in bulk without leases.

The other two are what is written by hand: they stand for one relay alone, know no outage, and keep
the transaction open while they publish.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import msgspec
from sqlalchemy import Row, Select, Table, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from events.errors import BusError
from events.integration import IntegrationEvent, IntegrationEventBus, OutboxRelay, Topic
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.implementation.sqlalchemy import SQLAlchemyOutboxStore
from events.integration.message import Message

BATCH = 500

_headers = msgspec.json.Decoder(dict[str, str]).decode


class NoOpBus(IntegrationEventBus):
    """It takes all and does nothing, or calls back."""

    def __init__(self, taken: Callable[[Sequence[Message]], None] = len) -> None:  # type: ignore[assignment]
        super().__init__()
        self.taken = taken

    async def send(self, topic: Topic, event: IntegrationEvent) -> None:
        raise NotImplementedError

    async def forward(self, messages: Sequence[Message]) -> Sequence[BusError | None]:
        self.taken(messages)
        return [None] * len(messages)


Bus: TypeAlias = NoOpBus | TransportIntegrationEventBus
Relay: TypeAlias = Callable[[AsyncEngine, Table, Bus], Awaitable[None]]


async def ours(engine: AsyncEngine, table: Table, bus: Bus) -> None:
    relay = OutboxRelay(SQLAlchemyOutboxStore(engine, table=table), bus, batch=BATCH)
    async with relay:
        await relay.drain()


def _messages(rows: Sequence[Row[Any]]) -> list[Message]:
    return [
        Message(row.topic, row.type, row.event_id, row.body, _headers(row.headers), row.key)
        for row in rows
    ]


async def _in_batches(
    engine: AsyncEngine,
    table: Table,
    pass_on: Callable[[AsyncConnection, Sequence[Row[Any]]], Awaitable[None]],
    *,
    locked: bool,
) -> None:
    statement: Select[Any] = select(table).order_by(table.c.id).limit(BATCH)
    if locked:
        statement = statement.with_for_update(skip_locked=True)  # SQLite leaves it out
    while True:
        async with engine.begin() as connection:
            rows = (await connection.execute(statement)).all()
            if not rows:
                return
            await pass_on(connection, rows)


async def row_by_row(engine: AsyncEngine, table: Table, bus: Bus) -> None:
    """Select 500 FOR UPDATE SKIP LOCKED; publish and delete each; commit."""

    async def pass_on(connection: AsyncConnection, rows: Sequence[Row[Any]]) -> None:
        for row, message in zip(rows, _messages(rows), strict=True):
            await bus.forward([message])
            await connection.execute(delete(table).where(table.c.id == row.id))

    await _in_batches(engine, table, pass_on, locked=True)


async def in_bulk(engine: AsyncEngine, table: Table, bus: Bus) -> None:
    """Select 500, publish all, delete all with one statement, commit."""

    async def pass_on(connection: AsyncConnection, rows: Sequence[Row[Any]]) -> None:
        await bus.forward(_messages(rows))
        await connection.execute(delete(table).where(table.c.id.in_([row.id for row in rows])))

    await _in_batches(engine, table, pass_on, locked=False)


async def read_all(engine: AsyncEngine, table: Table) -> list[Message]:
    async with engine.connect() as connection:
        return _messages((await connection.execute(select(table))).all())


async def forward_all(messages: Sequence[Message], bus: Bus) -> None:
    """Have the bus forward them in the relay's batches."""
    for start in range(0, len(messages), BATCH):
        await bus.forward(messages[start : start + BATCH])


CONTESTANTS: dict[str, Relay] = {
    "ours": ours,
    "one select, one bulk delete": in_bulk,
    "row by row, FOR UPDATE SKIP LOCKED": row_by_row,
}
