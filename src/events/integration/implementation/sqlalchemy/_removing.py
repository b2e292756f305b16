"""Removing rows from SQLite, where one who writes holds up all others.

A relay in the application's process shares with its commits the one lock of the file, and the event
loop. A commit that finds the lock taken looks again after 1, 2, 5 ms and so on, so it waits longer
than the lock is held. Therefore a removal

- holds the lock but briefly: it does not wait for the disk. With a write-ahead log the database
  stays whole, and the application's next commit takes the removal to the disk with its own. Where
  the power fails before that, rows are sent again, with the same ids.
- leaves the others three times the time that it took, before the next one begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from events.integration.implementation.sqlalchemy._many import Many
from events.integration.implementation.sqlalchemy._opening import connected
from events.integration.implementation.sqlalchemy.tables import MOST_IDS

_REST = 3.0  # times what the last removal took
_LONGEST_REST = 0.1  # seconds; it may have taken long because others wrote
_SETTINGS = "SELECT journal_mode, synchronous FROM pragma_journal_mode, pragma_synchronous"
_NORMAL = 1


class Removal:
    """Deletes rows of one outbox on SQLite, with rests between two times."""

    def __init__(self, engine: AsyncEngine, many: Many) -> None:
        self._engine = engine
        self._many = many
        self._next_at = 0.0

    async def __call__(self, ids: Sequence[int]) -> None:
        """See `OutboxStore.remove`."""
        now = asyncio.get_running_loop().time
        await asyncio.sleep(self._next_at - now())
        began = now()
        async with connected(self._engine) as connection, _unsynced(connection), connection.begin():
            for start in range(0, len(ids), MOST_IDS):
                await connection.execute(*self._many.delete(ids[start : start + MOST_IDS]))
        self._next_at = now() + min(_REST * (now() - began), _LONGEST_REST)


@asynccontextmanager
async def _unsynced(connection: AsyncConnection) -> AsyncGenerator[None]:
    """Have commits not wait for the disk, and see that those of others do again after it.

    Asked of the driver: a statement of SQLAlchemy's might begin a transaction, in which it cannot
    be changed.
    """
    raw: Any = (await connection.get_raw_connection()).driver_connection
    mode, level = None, _NORMAL
    if hasattr(raw, "execute_fetchall"):  # aiosqlite
        [(mode, level)] = await raw.execute_fetchall(_SETTINGS)
    if mode != "wal" or level <= _NORMAL or raw.in_transaction:
        yield
        return
    try:
        await raw.execute_fetchall(f"PRAGMA synchronous = {_NORMAL}")
        yield
        await raw.execute_fetchall(f"PRAGMA synchronous = {level}")
    except BaseException:
        await connection.invalidate()  # rather than to leave it so to the next who gets it
        raise
