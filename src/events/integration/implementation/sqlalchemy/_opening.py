"""Opening connections so that a cancellation in the middle leaves none behind.

SQLAlchemy takes a connection from the pool and then sets its isolation level, by a statement where
the database has no other way. Cancelled between the two it forgets the connection: the pool is
short of one until the garbage collector comes by, which terminates it and logs an error. What comes
after the opening SQLAlchemy looks after by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = ["begun", "connected"]

_LONGEST = 2.0  # seconds that a cancelled opening may go on: it takes milliseconds, or it hangs


@asynccontextmanager
async def connected(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """Open a connection, as `engine.connect()` does."""
    opening = asyncio.create_task(_open(engine))
    try:
        connection = await asyncio.shield(opening)
    except asyncio.CancelledError:
        await _let_go(opening)
        raise
    try:
        yield connection
    finally:
        closing = asyncio.create_task(connection.close())
        await asyncio.shield(closing)  # as SQLAlchemy's own exit does


@asynccontextmanager
async def begun(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """Open one with a transaction that commits at the exit, as `engine.begin()` does."""
    async with connected(engine) as connection, connection.begin():
        yield connection


async def _open(engine: AsyncEngine) -> AsyncConnection:
    return await engine.connect()


async def _let_go(opening: asyncio.Task[AsyncConnection]) -> None:
    """Give back what was opened for nobody, however often that is cancelled."""
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
