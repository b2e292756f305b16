"""Waking relays across processes on PostgreSQL: NOTIFY after the commit, LISTEN in the relay.

Never within the writing transaction: all transactions that notify commit one after another, behind
a lock of the whole server, which halves their rate with eight writers. So a process notifies when
its commits are done, on a connection of the pool that it gives back: for the first of them at once,
and then for all of the next ten milliseconds together, so that where commits are many they cost
nothing. Both sides are a convenience: without a notification a relay polls.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary
from zlib import crc32

from sqlalchemy import Connection, Engine, Pool, Table, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from events.integration.implementation.sqlalchemy._opening import at_level, opened
from events.integration.topology import RetryPolicy

logger = logging.getLogger("events.integration")

_CLOSING = 2.0  # seconds
_REST = 0.01  # seconds from one NOTIFY to the next: half of what a row may take to wake a relay
_LONGEST_SEND = 30.0  # seconds, most of them until the pool has a connection
_LONGEST = 63  # bytes of a channel's name
_BACKOFF = RetryPolicy(delay=0.5, factor=2.0, max_delay=30.0)

_NOTIFY = text("SELECT pg_notify(:channel, '')")
_notifiers: WeakKeyDictionary[Pool, _Notifier] = WeakKeyDictionary()


def channel_of(table: Table) -> str:
    """Return the channel that announces the commits of this outbox."""
    name = f"events.{table.fullname}"
    return name if len(name.encode()) <= _LONGEST else f"events.{crc32(name.encode()):08x}"


def notify(engine: Engine, channel: str) -> None:
    """Notify all relays, soon and once for many calls. It neither waits nor fails."""
    notifier = _notifiers.get(engine.pool)
    if notifier is None:
        notifier = _notifiers[engine.pool] = _Notifier()
    notifier.notify(engine, channel)


class _Notifier:
    """Sends a NOTIFY for the first commit at once, and one for all that come while it rests.

    There is one for each pool. `dispose` gives an engine another, and cannot close a connection
    that is in use: so this one closes it then, and does not give it back unseen.
    """

    def __init__(self) -> None:
        self._channels: set[str] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def notify(self, engine: Engine, channel: str) -> None:
        self._channels.add(channel)
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # it belongs to another loop, which will not end it
            self._loop, self._task = loop, None
        if self._task is None:
            self._task = loop.create_task(self._send(AsyncEngine(engine), engine.pool))

    async def _send(self, engine: AsyncEngine, pool: Pool) -> None:
        at_once = at_level(engine, "AUTOCOMMIT")
        try:
            async with asyncio.timeout(_LONGEST_SEND):  # an event loop that ends waits for it
                connection = await opened(at_once)
                try:
                    channels, self._channels = self._channels, set()
                    for channel in channels:
                        await connection.execute(_NOTIFY, {"channel": channel})
                    if engine.pool is not pool:
                        await connection.invalidate()
                finally:
                    await connection.close()  # here: the rest may come before a task's turn
        except Exception as error:  # noqa: BLE001 - the relays poll anyway
            logger.debug("could not notify the relays: %s", error)
            self._channels.clear()
        finally:
            asyncio.get_running_loop().call_later(_REST, self._rested, engine.sync_engine)

    def _rested(self, engine: Engine) -> None:
        self._task = None
        if self._channels:
            self.notify(engine, next(iter(self._channels)))


@asynccontextmanager
async def listening(
    engine: AsyncEngine, channel: str, wake: Callable[[], None]
) -> AsyncGenerator[None]:
    """Have `wake` called on each notification, until the exit, on a connection of its own."""
    task = asyncio.create_task(_listen(engine, channel, wake))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _listen(engine: AsyncEngine, channel: str, wake: Callable[[], None]) -> None:
    failures = 0
    while True:
        try:
            async with _own_connection(engine) as raw:
                hear = await _begin(raw, channel, wake)
                if failures:
                    logger.info("listens on %r again", channel)
                failures = 0
                wake()  # for what was committed before it could be heard
                await hear()
                raise ConnectionError("the connection was closed")
        except Exception as error:  # noqa: BLE001 - as the driver raises what it does
            failures += 1
            if failures == 1:
                logger.warning(
                    "cannot listen on %r, so relays poll until it can: %s", channel, error
                )
        await asyncio.sleep(_BACKOFF.delay_after(max(failures, 1)))


@asynccontextmanager
async def _own_connection(engine: AsyncEngine) -> AsyncGenerator[Any]:
    """Yield a driver's connection, made as the engine makes them; it is closed at the exit.

    The pool does not count it, and may open another in its place.
    """
    async with engine.connect() as connection:
        raw = await _detached(connection)
        try:
            yield raw
        finally:
            await _close(raw)
            # Else its exit rolls back on what is closed, and an error is logged.
            await connection.invalidate()


async def _detached(connection: AsyncConnection) -> Any:
    """Take the driver's connection away from the pool, which then does not close it either."""
    raw = (await connection.get_raw_connection()).driver_connection
    await connection.run_sync(Connection.detach)
    return raw


async def _close(raw: Any) -> None:
    # A server that is frozen does not say goodbye; the connection goes with the process.
    with suppress(TimeoutError):
        async with asyncio.timeout(_CLOSING):
            await raw.close()


async def _begin(
    raw: Any, channel: str, wake: Callable[[], None]
) -> Callable[[], Coroutine[Any, Any, object]]:
    """Listen, and return what hears until the connection is lost."""
    if hasattr(raw, "add_listener"):  # asyncpg
        lost = asyncio.Event()

        def hear_loss(_connection: object) -> None:
            lost.set()

        def hear_commit(*_notification: object) -> None:
            wake()

        raw.add_termination_listener(hear_loss)
        await raw.add_listener(channel, hear_commit)
        return lost.wait
    if hasattr(raw, "notifies"):  # psycopg
        await raw.set_autocommit(True)
        await raw.execute(f'LISTEN "{channel}"')

        async def hear() -> None:
            async for _ in raw.notifies():
                wake()

        return hear
    raise TypeError(f"no way is known to listen with {type(raw).__module__}")
