"""Marks of paused consumers: queues that keep nothing, and are there as long as the pause lasts.

A broker tells whether a queue is there by returning a mandatory message to one that is not. To ask
by declaring it passively would cost a channel, and leave an error in the broker's log, each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Iterable
from contextlib import asynccontextmanager
from typing import Any

from events.errors import BusUnavailableError
from events.integration.implementation.rabbitmq._channel import Channel
from events.integration.implementation.rabbitmq._driver import (
    DriverError,
    LostError,
    Properties,
    SilentError,
    new_properties,
)
from events.integration.implementation.rabbitmq._link import Link
from events.integration.implementation.rabbitmq._topology import (
    Names,
    QueueType,
    declare,
    declare_all,
    is_there,
    paused_queue,
)


class Pauses:
    """A `PauseStore` on a connection that publishes."""

    def __init__(self, link: Link, queue_type: QueueType, timeout: float) -> None:
        self._link = link
        self._queue_type: QueueType = queue_type
        self._timeout = timeout

    async def paused(self, consumers: Collection[str]) -> frozenset[str]:
        """See `PauseStore`."""
        queues = {paused_queue(name, self._queue_type).name: name for name in consumers}
        async with self._channel() as channel:
            missing = await self._missing(channel, list(queues))
        return frozenset(name for queue, name in queues.items() if queue not in missing)

    async def set_paused(self, consumer: str, *, paused: bool) -> bool:
        """See `PauseStore`."""
        queue = paused_queue(consumer, self._queue_type)
        async with self._channel() as channel:
            changed = paused == bool(await self._missing(channel, [queue.name]))
            if paused:
                await declare(channel, queue)
            else:
                await channel.call("queue_delete", queue=queue.name)
        return changed

    async def declare(self, names: Names, types: Iterable[str]) -> None:
        """See `PauseStore`."""
        async with self._channel() as channel:
            await declare_all(channel, names, types)

    async def check(self, names: Names) -> None:
        """See `TopologySource`: to declare what is there as it should be changes nothing."""
        for place in (names.exchange, names.dead, names.main, names.quarantine):
            async with self._channel() as channel:
                if await is_there(channel, place):
                    await declare(channel, place)

    async def _missing(self, channel: Channel, queues: list[str]) -> set[str]:
        """Return which of these queues are not there."""
        missing: set[str] = set()
        answered = asyncio.get_running_loop().create_future()
        confirmed = 0

        def returned(_: str, key: str, __: Properties) -> None:
            missing.add(key)

        def on_confirm(method: Any) -> None:
            nonlocal confirmed
            confirmed = max(confirmed, method.delivery_tag) if method.multiple else confirmed + 1
            if confirmed >= len(queues) and not answered.done():
                answered.set_result(None)

        def closed(reason: DriverError) -> None:
            if not answered.done():
                answered.set_exception(reason)
                answered.exception()  # a call raises it too, perhaps before this is awaited

        channel.on_closed = closed
        channel.on_return(returned)
        await channel.confirms(on_confirm)
        for queue in queues:
            channel.publish("", queue, new_properties(), b"", mandatory=True)
        try:
            async with asyncio.timeout(self._timeout):
                await answered
        except TimeoutError:
            raise SilentError(f"no answer within {self._timeout:g} s") from None
        return missing

    @asynccontextmanager
    async def _channel(self) -> AsyncGenerator[Channel]:
        try:
            connection = self._link.connection
            if connection is None or not connection.is_open:
                raise LostError("not connected")
            channel = await connection.channel(self._timeout)
            try:
                yield channel
            finally:
                await channel.close()
        except DriverError as error:
            raise BusUnavailableError("RabbitMQ", f"paused consumers: {error}") from error
