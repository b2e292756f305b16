"""The bindings of a consumer's queue to its topic, restored while the consumer runs.

If an operator deletes an exchange or unbinds a queue, the broker does not notify the consumer,
which then misses events. So the exchange and the bindings are declared again from time to time,
which changes nothing if they exist, and at once when the broker returns a message of this process
that found no queue.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection

from events.errors import InvalidTopologyError
from events.integration.implementation.rabbitmq._channel import Channel
from events.integration.implementation.rabbitmq._connection import Connection
from events.integration.implementation.rabbitmq._driver import (
    DriverError,
    NoChannelError,
    RefusedError,
)
from events.integration.implementation.rabbitmq._subscribed import RabbitMQSubscribed

logger = logging.getLogger("events.integration")

_EVERY = 10.0  # seconds; up to half of it less, so that processes do not all come together
_PAUSE = 0.2  # seconds between two checks at least


class Bindings:
    """The bindings of all consumers of a bus."""

    def __init__(self, subscribed: Collection[RabbitMQSubscribed], timeout: float) -> None:
        self._subscribed = subscribed
        self._timeout = timeout
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._lacks_channel = False  # as the log says

    def up(self, connection: Connection) -> None:
        """Look after them on this connection."""
        self.down()
        self._task = asyncio.create_task(self._keep(connection), name="rabbitmq bindings")

    def down(self) -> None:
        """Stop, until there is another connection."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def look(self, _: str = "") -> None:
        """Make them again now."""
        self._wanted.set()

    async def _keep(self, connection: Connection) -> None:
        while connection.is_open:
            try:
                async with asyncio.timeout(_EVERY * random.uniform(0.5, 1)):  # noqa: S311
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            try:
                await self._bind_all(connection)
            except NoChannelError as error:
                if not self._lacks_channel:
                    logger.warning("deleted bindings cannot be declared again: %s", error)
                self._lacks_channel = True
            except DriverError as error:
                logger.debug("bindings are declared again later: %s", error)
            else:
                self._lacks_channel = False
            await asyncio.sleep(_PAUSE)

    async def _bind_all(self, connection: Connection) -> None:
        channel: Channel | None = None
        try:
            for subscribed in tuple(self._subscribed):
                if channel is None:
                    channel = await connection.channel(self._timeout)
                try:
                    await subscribed.attachment.bind(channel)
                except (InvalidTopologyError, RefusedError):
                    channel = None  # the broker has closed it
        finally:
            if channel is not None:
                await channel.close()
