"""Messages to exchanges that refused one: each alone, on a channel that nothing else uses.

The broker answers a message that it refuses by closing its channel, and says nothing of the others
on it. So after a refusal the messages to that exchange come here:

    refused --> its own error, with the broker's words; the next one is tried
    taken   --> the exchange takes messages again: the others go the usual way
    lost    --> the usual way, on the next connection
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from events.integration.implementation.rabbitmq._channel import Channel
from events.integration.implementation.rabbitmq._connection import Connection
from events.integration.implementation.rabbitmq._driver import DriverError, Properties, RefusedError
from events.integration.implementation.rabbitmq._outgoing import Outgoing

_NOT_FOUND = 404


class Apart:
    """The messages to one such exchange."""

    def __init__(
        self,
        timeout: float,
        *,
        write: Callable[[Channel, Outgoing], bool],
        confirmed: Callable[[Outgoing, Any], None],
        refused: Callable[[Outgoing, RefusedError], None],
    ) -> None:
        self._timeout = timeout
        self._write = write
        self._confirmed = confirmed
        self._refused = refused
        self.waiting: deque[Outgoing] = deque()

    async def run(self, connection: Connection) -> bool:
        """Try what waits, one after the other; return whether the exchange takes messages again."""
        channel: Channel | None = None
        try:
            while self.waiting:
                out = self.waiting[0]
                if out.future.done():
                    self.waiting.popleft()
                    continue
                if channel is None:
                    channel = await connection.channel(self._timeout)
                try:
                    answered = await self._try(channel, out)
                except RefusedError as error:
                    channel = None
                    if error.code == _NOT_FOUND:
                        return True  # no refusal any more: it is made again on the usual way
                    self.waiting.popleft()
                    self._refused(out, error)
                else:
                    self.waiting.popleft()
                    if answered:
                        return True
                    await channel.close()  # no caller waits for this answer
                    channel = None
        finally:
            if channel is not None:
                await channel.close()
        return False

    async def _try(self, channel: Channel, out: Outgoing) -> bool:
        """Return whether there was an answer; raise that of a broker that closed the channel."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def closed(reason: DriverError) -> None:
            if not answer.done():
                answer.set_exception(reason)
                answer.exception()  # a call raises it too, perhaps before this is looked at

        def confirmed(method: Any) -> None:
            if not answer.done():
                answer.set_result(method)

        def returned(exchange: str, key: str, properties: Properties) -> None:
            out.returned = out.returned or out.is_returned_as(exchange, key, properties)

        channel.on_closed = closed
        channel.on_return(returned)
        await channel.confirms(confirmed)
        self._write(channel, out)
        await asyncio.wait({answer, out.future}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            return False
        self._confirmed(out, answer.result())
        return True
