"""A SQLAlchemy database for the inbox contract; as a program, a worker that dies on it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from sqlalchemy import URL, Column, Integer, MetaData, Table, func, insert, make_url, null, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from events.integration import IntegrationEvent, Topic
from events.integration.implementation.sqlalchemy import (
    SQLAlchemyInbox,
    SQLAlchemyOutbox,
    current_session,
    inbox_table,
    outbox_table,
)
from events.testing.contracts.inbox import handle_and_die
from tests.databases.database import new_database


class SQLAlchemyInboxDatabase:
    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.metadata = MetaData()
        self.table = inbox_table(self.metadata)
        self.outbox = outbox_table(self.metadata)
        # Not unique: the table must not be what keeps an effect from happening twice.
        self.written = Table(
            "effects",
            self.metadata,
            Column("id", Integer, primary_key=True, autoincrement=True),
            Column("number", Integer, nullable=False),
        )
        self.sessions = async_sessionmaker(engine)
        self.inbox = SQLAlchemyInbox(self.sessions)

    @property
    def worker_command(self) -> Sequence[str]:
        url = self.engine.url.render_as_string(hide_password=False)
        return [sys.executable, "-m", "tests.contracts.sqlalchemy_inbox", url]

    async def create(self) -> None:
        async with self.engine.begin() as connection:
            await connection.run_sync(self.metadata.create_all)

    async def write(self, effect: int) -> None:
        await current_session().execute(insert(self.written).values(number=effect))

    async def fail(self) -> None:
        await current_session().execute(insert(self.written).values(number=null()))

    async def put(self, event: IntegrationEvent) -> None:
        await SQLAlchemyOutbox(current_session()).put(Topic("elsewhere"), event)

    async def commit(self) -> None:
        await current_session().commit()

    async def roll_back(self) -> None:
        await current_session().rollback()

    @property
    def endings(self) -> dict[str, Callable[[], Awaitable[None]]]:
        return {
            "close": _close,
            "reset": _reset,
            "async with": _enter_and_leave,
            "invalidate": _invalidate,
            "in a savepoint": _close_in_a_savepoint,
        }

    async def effects(self) -> list[int]:
        async with self.engine.connect() as connection:
            found = await connection.scalars(select(self.written.c.number))
            return sorted(found)

    async def rows(self) -> int:
        return await self._count(self.table)

    async def waiting(self) -> int:
        return await self._count(self.outbox)

    async def _count(self, table: Table) -> int:
        async with self.engine.connect() as connection:
            return int(
                (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            )


async def _close() -> None:
    await current_session().close()


async def _reset() -> None:
    await current_session().reset()


async def _enter_and_leave() -> None:
    async with current_session():
        pass


async def _invalidate() -> None:
    await current_session().invalidate()


async def _close_in_a_savepoint() -> None:
    await current_session().begin_nested()
    await current_session().close()


@asynccontextmanager
async def created(
    url: URL, kind: type[SQLAlchemyInboxDatabase] | None = None
) -> AsyncGenerator[SQLAlchemyInboxDatabase]:
    """Give a database with its tables."""
    engine = create_async_engine(url)
    try:
        database = (kind or SQLAlchemyInboxDatabase)(engine)
        await database.create()
        yield database
    finally:
        await engine.dispose()


@asynccontextmanager
async def on_server(
    driver: str, kind: type[SQLAlchemyInboxDatabase] | None = None
) -> AsyncGenerator[SQLAlchemyInboxDatabase]:
    """Give a database on the machine's server, reached by this driver."""
    with new_database("postgresql" if driver.startswith("postgresql") else "mariadb") as there:
        async with created(there.url(driver), kind) as database:
            yield database


async def main(url: str, step: str) -> None:
    engine = create_async_engine(make_url(url))
    await handle_and_die(SQLAlchemyInboxDatabase(engine), step)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
