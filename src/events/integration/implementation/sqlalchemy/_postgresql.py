"""Waking relays across processes on PostgreSQL: NOTIFY after the commit, LISTEN in the relay.

Never within the writing transaction: all transactions that notify commit one after another, behind
a lock of the whole server, which halves their rate with eight writers. So a process notifies when
its commits are done, many of them at once, on a connection of the pool that it gives back. Both
sides are a convenience: without a notification a relay polls.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary
from zlib import crc32

from sqlalchemy import Connection, Engine, Table, text
from sqlalchemy.ext.asyncio import AsyncEngine

from events.integration.topology import RetryPolicy

__all__ = ["channel_of", "listening", "notify"]

logger = logging.getLogger("events.integration")

_CLOSING = 2.0  # seconds
_LONGEST = 63  # bytes of a channel's name
_BACKOFF = RetryPolicy(delay=0.5, factor=2.0, max_delay=30.0)

_notifiers: WeakKeyDictionary[Engine, _Notifier] = WeakKeyDictionary()


def channel_of(table: Table) -> str:
    """Return the channel on which the commits of this outbox are told."""
    name = f"events.{table.fullname}"
    return name if len(name.encode()) <= _LONGEST else f"events.{crc32(name.encode()):08x}"


def notify(engine: Engine, channel: str) -> None:
    """Tell all relays, soon and once for many calls. It neither waits nor fails."""
    notifier = _notifiers.get(engine)
    if notifier is None:
        notifier = _notifiers[engine] = _Notifier()
    notifier.notify(engine, channel)


class _Notifier:
    """Sends at most one NOTIFY at a time for an engine; the calls meanwhile share the next."""

    def __init__(self) -> None:
        self._channels: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def notify(self, engine: Engine, channel: str) -> None:
        self._channels.add(channel)
        loop, task = asyncio.get_running_loop(), self._task
        if task is None or task.done() or task.get_loop() is not loop:
            self._task = loop.create_task(self._send(AsyncEngine(engine)))

    async def _send(self, engine: AsyncEngine) -> None:
        statement = text("SELECT pg_notify(:channel, '')")
        engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        try:
            async with engine.connect() as connection:
                while self._channels:
                    await connection.execute(statement, {"channel": self._channels.pop()})
        except Exception as error:  # noqa: BLE001 - the relays poll anyway
            logger.debug("could not notify the relays: %s", error)
            self._channels.clear()


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
    """Give a connection of the driver's, made as the engine makes them, and close it at the exit.

    The pool does not count it, and may open another in its place.
    """
    async with engine.connect() as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        await connection.run_sync(_detach)
        try:
            yield raw
        finally:
            # A server that is frozen does not say goodbye; the connection goes with the process.
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSING):
                    await raw.close()


def _detach(connection: Connection) -> None:
    connection.detach()


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
