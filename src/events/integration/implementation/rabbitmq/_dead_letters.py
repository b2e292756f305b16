"""Dead letters, in a queue: to look at some, or to take some out, all are taken, the rest put back.

The reader has the queue to itself meanwhile (an exclusive consumer); others wait for their turn. A
reader that dies gives all of them back with its connection.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from events.errors import BusUnavailableError
from events.integration.health import Backlog
from events.integration.implementation.rabbitmq import _wire as wire
from events.integration.implementation.rabbitmq._channel import Channel
from events.integration.implementation.rabbitmq._driver import DriverError, Properties, RefusedError
from events.integration.implementation.rabbitmq._link import Link
from events.integration.implementation.rabbitmq._publisher import Publisher
from events.integration.implementation.rabbitmq._topology import dead_letter_queue, main_queue
from events.integration.message import DeadLetter

__all__ = ["RabbitMQDeadLetters"]

_PATIENCE = 1.0  # seconds for a letter that was counted
_TURN = 0.05  # seconds until it is tried again to have the queue to oneself
_NOT_FOUND, _ACCESS_REFUSED = 404, 403
# Of what nobody limits, a quorum queue hands out 2,000 and no more; AMQP counts up to this.
_MOST = (1 << 16) - 1


class _Reading:
    """What a queue holds, as it comes in."""

    def __init__(self, channel: Channel, queue: str, count: int) -> None:
        self.channel = channel
        self._queue = queue
        self._count = count
        self._arrived: asyncio.Queue[tuple[int, Properties, bytes]] = asyncio.Queue()

    def receive(self, method: Any, properties: Properties, body: bytes) -> None:
        self._arrived.put_nowait((method.delivery_tag, properties, body))

    async def letters(self) -> AsyncGenerator[tuple[int, Properties, bytes], None]:
        for _ in range(self._count):
            try:
                async with asyncio.timeout(_PATIENCE):
                    arrived = await self._arrived.get()
            except TimeoutError:
                # Fewer than were counted, as somebody took some out just then; or no answer.
                await self.channel.call("queue_declare", queue=self._queue, passive=True)
                if self._arrived.empty():
                    return
                arrived = self._arrived.get_nowait()
            yield arrived


class RabbitMQDeadLetters:
    """A `DeadLetterStore` over a queue for each consumer."""

    def __init__(self, link: Link, publisher: Publisher, *, timeout: float) -> None:
        self._link = link
        self._publisher = publisher
        self._timeout = timeout
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def read(self, consumer: str, *, limit: int, after: str | None) -> Sequence[DeadLetter]:
        """See `DeadLetterStore.read`. It goes over all of them, and keeps no more than `limit`."""
        page: list[tuple[str, Properties, bytes]] = []
        async with self._open(consumer) as reading:
            if reading is not None:
                found = [
                    (letter, properties, body)
                    async for _, properties, body in reading.letters()
                    if (letter := wire.letter_id(properties, body)) > (after or "")
                ]
                page = heapq.nsmallest(limit, found, key=lambda each: each[0])
        return [wire.to_dead_letter(consumer, properties, body) for _, properties, body in page]

    async def redrive(self, consumer: str, ids: Sequence[str]) -> Sequence[str]:
        """See `DeadLetterStore.redrive`. Each is taken out when its queue has confirmed it."""

        async def send(properties: Properties, body: bytes) -> None:
            topic = wire.to_dead_letter(consumer, properties, body).message.topic
            alive = wire.redriven(properties)
            queue = main_queue(consumer, topic)
            await self._publisher.publish("", queue, alive, body, mandatory=True)

        return await self._take(consumer, ids, send)

    async def discard(self, consumer: str, ids: Sequence[str]) -> Sequence[str]:
        """See `DeadLetterStore.discard`."""

        async def drop(_: Properties, __: bytes) -> None:
            pass

        return await self._take(consumer, ids, drop)

    async def backlog(self, consumer: str, topics: Sequence[str]) -> Backlog:
        """See `BacklogSource`. The protocol tells of what is ready in a queue, and no more."""
        queues = [main_queue(consumer, topic) for topic in topics]
        waiting = [await self._count(each) for q in queues for each in (q, f"{q}:quarantine")]
        return Backlog(sum(waiting), await self._count(dead_letter_queue(consumer)))

    async def _count(self, queue: str) -> int:
        """Return how many messages are ready in a queue, 0 if there is none."""
        try:
            await self._link.open(self._timeout)
            if self._link.connection is None:
                raise BusUnavailableError("RabbitMQ", "not connected")
            channel = await self._link.connection.channel(self._timeout)
            try:
                answer = await channel.call("queue_declare", queue=queue, passive=True)
                count: int = answer.method.message_count
            finally:
                await channel.close()
        except RefusedError as error:
            if error.code == _NOT_FOUND:
                return 0
            raise BusUnavailableError("RabbitMQ", f"{queue!r}: {error}") from error
        except (DriverError, TimeoutError) as error:
            raise BusUnavailableError("RabbitMQ", f"{queue!r}: {error}") from error
        return count

    async def _take(self, consumer: str, ids: Sequence[str], use: Any) -> Sequence[str]:
        wanted = set(ids)
        taken: list[str] = []
        async with self._open(consumer) as reading:
            if reading is not None:
                async for tag, properties, body in reading.letters():
                    letter = wire.letter_id(properties, body)
                    if letter in wanted:
                        await use(properties, body)
                        reading.channel.ack(tag)
                        taken.append(letter)
                        wanted.discard(letter)
                        if not wanted:
                            break
        return taken

    @asynccontextmanager
    async def _open(self, consumer: str) -> AsyncGenerator[_Reading | None, None]:
        """Have the consumer's queue to oneself; None if it has none, or it is empty."""
        try:
            async with self._turns[consumer]:
                await self._link.open(self._timeout)
                async with asyncio.timeout(self._timeout):
                    reading = await self._begin(dead_letter_queue(consumer))
                try:
                    yield reading
                finally:
                    # The end of the channel puts back at one stroke what was not taken. Before
                    # that, others see that it has a consumer, and wait.
                    if reading is not None:
                        await reading.channel.close()
        except TimeoutError:
            reason = f"{dead_letter_queue(consumer)!r} is being read by others, or no answer"
            raise BusUnavailableError("RabbitMQ", reason) from None
        except DriverError as error:
            raise BusUnavailableError(
                "RabbitMQ", f"dead letters of {consumer!r}: {error}"
            ) from error

    async def _begin(self, queue: str) -> _Reading | None:
        while True:
            connection = self._link.connection
            if connection is None:
                raise BusUnavailableError("RabbitMQ", "not connected")
            channel = await connection.channel(self._timeout)
            try:
                answer = await channel.call("queue_declare", queue=queue, passive=True)
                count: int = answer.method.message_count
                if answer.method.consumer_count:  # somebody has some of them in his hands
                    await channel.close()
                    await asyncio.sleep(_TURN)
                    continue
                if not count:
                    await channel.close()
                    return None
                reading = _Reading(channel, queue, count)
                await channel.consume(
                    queue, reading.receive, prefetch=min(count, _MOST), exclusive=True
                )
            except RefusedError as error:
                if error.code == _NOT_FOUND:
                    return None
                if error.code != _ACCESS_REFUSED:
                    raise
                await asyncio.sleep(_TURN)
            except BaseException:
                await channel.close()
                raise
            else:
                return reading
