"""A SQLAlchemy database for the outbox contract; as a program, a relay process on it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from sqlalchemy import MetaData, insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from events.integration.implementation.sqlalchemy import (
    AT_ONCE,
    SQLAlchemyOutbox,
    SQLAlchemyOutboxStore,
    outbox_table,
    partition_of,
)
from events.integration.outbox import OutboxRow
from events.testing.contracts.outbox import relay_and_die


@dataclass
class SessionUnit:
    session: AsyncSession

    @property
    def outbox(self) -> SQLAlchemyOutbox:
        return SQLAlchemyOutbox(self.session)

    def savepoint(self) -> AbstractAsyncContextManager[object]:
        return self.session.begin_nested()


class SQLAlchemyDatabase:
    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.table = outbox_table(MetaData())
        self.store = SQLAlchemyOutboxStore(engine)
        url = engine.url.render_as_string(hide_password=False)
        self.relay_command = [sys.executable, __file__, url]

    async def create(self) -> None:
        async with self.engine.begin() as connection:
            await connection.run_sync(self.table.metadata.create_all)

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncGenerator[SessionUnit]:
        async with AsyncSession(self.engine) as session, session.begin():
            yield SessionUnit(session)

    async def insert(self, row: OutboxRow) -> None:
        message = row.message
        values = {
            "id": row.id,
            "event_id": message.id,
            "topic": message.topic,
            "key": message.key,
            "partition_id": partition_of(message.key, message.id),
            "type": message.type,
            "version": 1,
            "headers": msgspec.json.encode(message.headers).decode(),
            "body": message.body,
            "created_at": datetime.now(UTC),
            "available_at": AT_ONCE,
        }
        async with self.engine.begin() as connection:
            await connection.execute(insert(self.table), values)


async def main(url: str, journal: str, step: str) -> None:
    engine = create_async_engine(url)
    await relay_and_die(SQLAlchemyOutboxStore(engine), journal, step)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
