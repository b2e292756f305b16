"""Databases for the contracts of the bus on them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from shutil import rmtree
from tempfile import mkdtemp
from typing import Unpack
from weakref import finalize

from sqlalchemy import URL, MetaData, NullPool, func, make_url, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from events.integration.implementation.base import BusOptions, TransportIntegrationEventBus
from events.integration.implementation.sqlalchemy import (
    SQLAlchemyIntegrationEventBus,
    bus_table,
    enable_wal,
)
from events.testing.contracts import Harness
from tests.databases.database import Kind, new_database

# The connections of a database, except the one that asks.
CONNECTIONS = {
    "postgresql": "SELECT pid FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    "mariadb": "SELECT id FROM information_schema.processlist "
    "WHERE db = database() AND id <> connection_id()",
}
KILL = {"postgresql": "SELECT pg_terminate_backend({})", "mariadb": "KILL CONNECTION {}"}


class DatabaseHarness(Harness):
    """Buses on one database, each with an engine of its own, as processes have."""

    deadline = 240.0
    timeout = 120.0  # each settlement is a commit, which waits for the disk

    def __init__(self, url: URL) -> None:
        self.url = url
        self.metadata = MetaData()
        bus_table(self.metadata)
        self.engines = [create_async_engine(url, poolclass=NullPool)]
        asyncio.run(self._create())

    async def _create(self) -> None:
        [engine] = self.engines
        if engine.dialect.name == "sqlite":
            await enable_wal(engine)
        async with engine.begin() as connection:
            await connection.run_sync(self.metadata.create_all)

    def new_bus(self, **options: Unpack[BusOptions]) -> SQLAlchemyIntegrationEventBus:
        engine = create_async_engine(self.url, pool_pre_ping=True)
        self.engines.append(engine)
        return SQLAlchemyIntegrationEventBus(engine, **options)

    def break_dead_letters(self) -> AbstractAsyncContextManager[None]:
        return self.without("bus_dead_letters")

    @asynccontextmanager
    async def without(self, table: str) -> AsyncGenerator[None]:
        """Have a table be away until the exit."""
        rename = "ALTER TABLE {} RENAME TO {}"
        await self.execute(rename.format(table, "elsewhere"))
        try:
            yield
        finally:
            await self.execute(rename.format("elsewhere", table))

    async def execute(self, sql: str) -> None:
        async with self.engines[0].begin() as connection:
            await connection.execute(text(sql))

    async def open_resources(self) -> dict[str, int]:
        members = self.metadata.tables["bus_members"]
        count = select(func.count()).where(members.c.member != "")
        async with self.engines[0].connect() as connection:
            return {"members": (await connection.execute(count)).scalar_one()}

    async def aclose(self) -> None:
        for engine in self.engines:
            await engine.dispose()


class SQLiteHarness(DatabaseHarness):
    def __init__(self) -> None:
        folder = mkdtemp()
        finalize(self, rmtree, folder, ignore_errors=True)  # a test that is skipped closes nothing
        # So long one waits for another's commit, on a busy machine.
        super().__init__(make_url(f"sqlite+aiosqlite:///{folder}/bus.db?timeout=60"))


_skipped: list[ExitStack] = []


class ServerHarness(DatabaseHarness):
    """A database on the machine's server, which is dropped at the end."""

    kind: Kind
    driver: str

    def __init__(self) -> None:
        self.made = ExitStack()
        while _skipped:
            _skipped.pop().close()
        # A test that is skipped closes nothing, and a collector must not wait for a server: it may
        # interrupt the transaction that holds a lock that this needs.
        finalize(self, _skipped.append, self.made)
        super().__init__(self.made.enter_context(new_database(self.kind)).url(self.driver))

    async def lose_connection(self, bus: TransportIntegrationEventBus) -> None:
        async with self.engines[0].connect() as connection:
            for found in (await connection.execute(text(CONNECTIONS[self.kind]))).all():
                # One may be gone by itself since.
                with suppress(DBAPIError):
                    await connection.execute(text(KILL[self.kind].format(found[0])))

    async def aclose(self) -> None:
        await super().aclose()
        self.made.close()


class AsyncpgHarness(ServerHarness):
    kind = "postgresql"
    driver = "postgresql+asyncpg"


class PsycopgHarness(ServerHarness):
    kind = "postgresql"
    driver = "postgresql+psycopg"


class MariaDBHarness(ServerHarness):
    kind = "mariadb"
    driver = "mariadb+asyncmy"
