"""The SQLite settings of the outbox: readers and writers do not wait for each other."""

from __future__ import annotations

import logging

from sqlalchemy import Connection, StaticPool, text
from sqlalchemy.ext.asyncio import AsyncEngine

from events.errors import OutboxError

logger = logging.getLogger("events.integration")

_SHORTEST_TIMEOUT = 1_000  # milliseconds


async def enable_wal(engine: AsyncEngine) -> None:
    """Switch a SQLite database to its write-ahead log; the setting is stored in the file.

    Then writers do not wait for the relay's reads, nor reads for writers. Call it where you create
    the tables. Raises `OutboxError` if that is impossible: in memory, while others use the file, or
    on another database than SQLite.
    """
    given: object = engine
    if not isinstance(given, AsyncEngine):
        raise TypeError(
            f"enable_wal needs an AsyncEngine, not {type(given).__name__}: "
            f"from sqlalchemy.ext.asyncio import create_async_engine"
        )
    if engine.dialect.name != "sqlite":
        raise OutboxError(f"{engine.url!r} is not a SQLite database: omit enable_wal")
    async with engine.connect() as connection:
        mode = (await connection.execute(text("PRAGMA journal_mode=WAL"))).scalar_one()
    if mode != "wal":
        raise OutboxError(
            f"{engine.url!r} stays in journal mode {mode!r}: it needs to be a database in a file, "
            f"as in sqlite+aiosqlite:///app.db"
        )


def check(connection: Connection) -> None:
    """Refuse a shared connection, and warn of settings that make writers wait."""
    if isinstance(connection.engine.pool, StaticPool):
        raise OutboxError(
            f"{connection.engine.url!r} shares one connection among all its users, so the relay's "
            f"commits would be the application's: use a file"
        )
    mode = connection.execute(text("PRAGMA journal_mode")).scalar_one()
    if mode not in ("wal", "memory"):
        logger.warning(
            "%r is in journal mode %r, in which the relay and the application block "
            "each other: call enable_wal(engine) once",
            connection.engine.url,
            mode,
        )
    timeout = connection.execute(text("PRAGMA busy_timeout")).scalar_one()
    if timeout < _SHORTEST_TIMEOUT:
        logger.warning(
            "%r waits only %d ms for a lock, so commits may fail with 'database is locked': "
            "connect with a longer timeout, as in create_async_engine(url, "
            "connect_args={'timeout': 5})",
            connection.engine.url,
            timeout,
        )
