"""Opening connections so that neither a cancellation nor an error in the middle leaves one behind.

To set the isolation level takes a statement where the database has no other way. SQLAlchemy sets
that of an engine after it has taken a connection from the pool, and if that fails, as of a server
that has gone, or is cancelled, it forgets the connection: the pool is short of one until the
garbage collector comes by, which terminates it and logs an error. So here the level is set on a
connection that somebody holds. What comes after the opening SQLAlchemy looks after by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from types import TracebackType

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_LEVEL = "events_isolation_level"  # the execution option of an engine that tells the level
_LONGEST = 2.0  # seconds that a cancelled opening may go on: it takes milliseconds, or it hangs


def at_level(engine: AsyncEngine, level: str) -> AsyncEngine:
    """Return the engine, as one of which the connections opened here have this isolation level."""
    return engine.execution_options(**{_LEVEL: level})


@asynccontextmanager
async def connected(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """Open a connection, as `engine.connect()` does."""
    opening = asyncio.create_task(opened(engine))
    try:
        connection = await asyncio.shield(opening)
    except asyncio.CancelledError:
        await _let_go(opening)
        raise
    try:
        yield connection
    except asyncio.CancelledError as error:
        if engine.dialect.name == "sqlite":
            _let_go_of_cursors(error.__traceback__)
        raise
    finally:
        closing = asyncio.create_task(connection.close())
        await asyncio.shield(closing)  # as SQLAlchemy's own exit does


@asynccontextmanager
async def begun(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """Open one with a transaction that commits at the exit, as `engine.begin()` does."""
    async with connected(engine) as connection, connection.begin():
        yield connection


async def opened(engine: AsyncEngine) -> AsyncConnection:
    """Open a connection that the caller closes; `connected` is for those who may be cancelled."""
    connection = await engine.connect()
    try:
        level = engine.get_execution_options().get(_LEVEL)
        if level is not None:
            await connection.execution_options(isolation_level=level)
    except BaseException as error:
        await connection.invalidate(error)
        await connection.close()
        kind = engine.dialect.loaded_dbapi.Error
        if isinstance(error, kind):  # SQLAlchemy wraps only what statements of its own raise
            wrapped = DBAPIError.instance(
                None, None, error, kind, connection_invalidated=True, dialect=engine.dialect
            )
            raise wrapped from error
        raise
    return connection


def _let_go_of_cursors(traceback: TracebackType | None) -> None:
    """Clear the frames of the library: they and cycles in them hold the cursor of a broken query.

    While it lives, SQLite keeps the lock, even when the connection is closed.
    """
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_globals.get("__name__", "").partition(".")[0] in {"sqlalchemy", "aiosqlite"}:
            with suppress(RuntimeError):  # it runs
                frame.clear()
        traceback = traceback.tb_next


async def _let_go(opening: asyncio.Task[AsyncConnection]) -> None:
    """Give back what was opened for a caller that has gone, however often that is cancelled."""
    closing = asyncio.create_task(_close(opening))
    while not closing.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([closing])


async def _close(opening: asyncio.Task[AsyncConnection]) -> None:
    await asyncio.wait([opening], timeout=_LONGEST)
    if not opening.done():
        opening.cancel()
        await asyncio.wait([opening])
    if not opening.cancelled() and opening.exception() is None:
        await opening.result().close()
