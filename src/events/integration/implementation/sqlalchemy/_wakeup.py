"""Wake the relays and buses of this process when rows are committed to a database.

Outbox and relay find one another by the database's URL, as a relay may well have an engine of its
own. A nudge for a database without listeners is dropped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)

from sqlalchemy import URL, Connection, Engine, Table
from sqlalchemy.ext.asyncio import AsyncEngine

from events.integration.implementation.sqlalchemy import _postgresql

_listeners: defaultdict[URL, list[Callable[[], None]]] = defaultdict(list)
_timekeepers: defaultdict[URL, list[Callable[[], None]]] = defaultdict(list)


@contextmanager
def listening(
    url: URL, wake: Callable[[], None], among: dict[URL, list[Callable[[], None]]] = _listeners
) -> Generator[None]:
    """Have `wake` called on each nudge, in whatever thread that comes."""
    among[url].append(wake)
    try:
        yield
    finally:
        among[url].remove(wake)


def hearing_schedules(
    engine: AsyncEngine, wake: Callable[[], None]
) -> AbstractContextManager[None]:
    """Have `wake` called when this process has committed a schedule, of whatever table."""
    return listening(engine.url, wake, _timekeepers)


def nudge_timekeepers(connection: Connection) -> None:
    """Wake those who wait for the next schedule in this process. A listener of commits."""
    for wake in tuple(_timekeepers.get(connection.engine.url, ())):
        wake()


@asynccontextmanager
async def hearing(
    engine: AsyncEngine, table: Table, wake: Callable[[], None]
) -> AsyncGenerator[None]:
    """Have `wake` called on commits of this process, and on PostgreSQL on those of all."""
    async with AsyncExitStack() as stack:
        stack.enter_context(listening(engine.url, wake))
        if engine.dialect.name == "postgresql":
            channel = _postgresql.channel_of(table)
            await stack.enter_async_context(_postgresql.listening(engine, channel, wake))
        yield


def nudge(engine: Engine, table: Table) -> None:
    """Wake all who wait for rows in this outbox: here at once, elsewhere soon where that works."""
    if engine.url in _listeners:
        for wake in tuple(_listeners[engine.url]):
            wake()
    if engine.dialect.name == "postgresql":
        _postgresql.notify(engine, _postgresql.channel_of(table))
