"""A database of a test's own, on the machine's server."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias
from uuid import uuid4

from sqlalchemy import URL, MetaData, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from events.sqlalchemy import enable_wal
from tests.databases.mariadb_server import mariadb_url
from tests.databases.postgresql_server import postgresql_url
from tests.databases.probing import DRIVERS, execute

SERVERS: Final[dict[str, Callable[[], str]]] = {
    "postgresql": postgresql_url,
    "mariadb": mariadb_url,
}

Kind: TypeAlias = str  # a key of SERVERS


@dataclass(frozen=True)
class Database:
    """An empty database; `url` gives the URL of it for a driver."""

    server: str
    name: str

    def url(self, driver: str) -> URL:
        """Return its URL for a driver named as in SQLAlchemy, such as `postgresql+psycopg`."""
        return make_url(self.server).set(drivername=driver, database=self.name)


@contextmanager
def new_database(kind: Kind, server: str | None = None) -> Generator[Database]:
    """Create a database, and drop it at the end, even with open connections.

    It is on the machine's server of that kind, or on the one whose URL is given.
    """
    url = make_url(server or SERVERS[kind]()).set(drivername=DRIVERS[kind])
    admin = url.render_as_string(hide_password=False)
    name = f"events_test_{os.getpid()}_{uuid4().hex[:8]}"
    execute(admin, [f"CREATE DATABASE {name}{_CREATE[kind]}"])
    try:
        yield Database(admin, name)
    finally:
        _DROP[kind](admin, name)


@asynccontextmanager
async def new_engine(
    driver: str, directory: Path, metadata: MetaData
) -> AsyncGenerator[AsyncEngine]:
    """Yield an engine of a new database with these tables; SQLite's is a file in the directory."""
    kind, _, _ = driver.partition("+")
    with ExitStack() as stack:
        if kind == "sqlite":
            engine = create_async_engine(f"{driver}:///{directory}/test.db")
            await enable_wal(engine)
        else:
            engine = create_async_engine(stack.enter_context(new_database(kind)).url(driver))
        try:
            async with engine.begin() as connection:
                await connection.run_sync(metadata.create_all)
            yield engine
        finally:
            await engine.dispose()


def _drop_postgresql(admin: str, name: str) -> None:
    execute(admin, [f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"])


def _drop_mariadb(admin: str, name: str) -> None:
    # Dropping would wait for the transactions of connections that a failed test left open.
    connected = f"SELECT id FROM information_schema.processlist WHERE db = '{name}'"
    for row in execute(admin, [connected]):
        with suppress(OperationalError):  # it has gone by itself since
            execute(admin, [f"KILL CONNECTION {row[0]}"])
    execute(admin, ["SET lock_wait_timeout = 10", f"DROP DATABASE IF EXISTS {name}"])


_CREATE: Final = {"postgresql": "", "mariadb": " CHARACTER SET utf8mb4"}
_DROP: Final[dict[str, Callable[[str, str], None]]] = {
    "postgresql": _drop_postgresql,
    "mariadb": _drop_mariadb,
}
