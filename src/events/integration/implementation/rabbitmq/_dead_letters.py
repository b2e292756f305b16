"""Dead letters in a queue. To read or remove some, a reader takes all and puts the rest back.

The reader is an exclusive consumer meanwhile; other readers wait. If it dies, its connection ends
and the broker requeues all of them.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, TypeAlias

from events.errors import BusUnavailableError
from events.integration.health import Backlog
from events.integration.implementation.rabbitmq import _wire as wire
from events.integration.implementation.rabbitmq._channel import Channel
from events.integration.implementation.rabbitmq._driver import DriverError, Properties, RefusedError
from events.integration.implementation.rabbitmq._link import Link
from events.integration.implementation.rabbitmq._publisher import Publisher
from events.integration.implementation.rabbitmq._topology import (
    QueueType,
    counts,
    dead_letter_queue,
    declare,
    main_queue,
    receipt_queue,
)
from events.integration.message import DeadLetter

_LETTER_TIMEOUT = 1.0  # seconds for a letter that was counted
_SILENCES = 10  # each of them so long
_TURN = 0.05  # seconds between attempts to become the exclusive consumer
_NOT_FOUND, _ACCESS_REFUSED = 404, 403
# How many a consumer has in flight, and is then followed by another. A quorum queue reads so many
# from its disk before it hands out the first. A classic one has no consumer between the two, and
# lets others in; AMQP counts up to this.
_MOST = {"quorum": 1_000, "classic": (1 << 16) - 1}

_Arrived: TypeAlias = tuple[int, Properties, bytes]


class _Reading:
    """The messages of a queue, as they arrive."""

    def __init__(self, channel: Channel, queue: str, count: int, most: int) -> None:
        self.channel = channel
        self._queue = queue
        self._most = most
        self._tag = ""
        self._due = 0  # how many more the current consumer gets
        self._last = self._before = 0  # delivery tags: the latest, and the one before the consumer
        self._unseen = count
        self.left = count
        self._arrived: list[_Arrived] = []
        self._arrives = asyncio.Event()

    def receive(self, _: Any, method: Any, properties: Properties, body: bytes) -> None:
        self._last = method.delivery_tag
        self._arrived.append((self._last, properties, body))
        self._arrives.set()

    async def begin(self) -> None:
        """Have the queue to itself, and receive as many as a consumer may have in flight."""
        self._due, self._before = min(self._unseen, self._most), self._last
        self._tag = await self.channel.consume(
            self._queue, self.receive, prefetch=self._due, exclusive=True
        )

    def take(self, tag: int) -> None:
        """Take this one out for good."""
        self.channel.ack(tag)
        self.left -= 1
        if tag > self._before:  # there is room for one more with the current consumer
            self._due += 1

    async def letters(self) -> AsyncGenerator[Sequence[_Arrived]]:
        """Give all, each time as many as have arrived."""
        while self._unseen > 0:
            if not self._due:
                # Another consumer of the channel may have as many again; those before stay taken.
                await self.channel.call("basic_cancel", consumer_tag=self._tag)
                await self.begin()
            arrived = await self._next()
            if not arrived:
                return
            self._due -= len(arrived)
            self._unseen -= len(arrived)
            yield arrived

    async def _next(self) -> Sequence[_Arrived]:
        """Return the next ones; none if there are fewer than were counted.

        Another reader took some out just then. But of a queue that is slow there may be more: it is
        asked for what it has not handed out yet.
        """
        for silence in range(_SILENCES):
            with suppress(TimeoutError):
                async with asyncio.timeout(_LETTER_TIMEOUT):
                    await self._arrives.wait()
            if not self._arrived:
                ready, _ = await counts(self.channel, self._queue)
                if not ready and silence and not self._arrived:
                    break
            if self._arrived:
                self._arrives.clear()
                arrived, self._arrived = self._arrived, []
                return arrived
        return ()


class _Receipt:
    """A `Receipt`: a queue that gets a message when the letter is handled."""

    def __init__(self, count: Callable[[str], Awaitable[int]], queue: str) -> None:
        self._count = count
        self._queue = queue

    async def is_handled(self) -> bool:
        """See `Receipt`."""
        return await self._count(self._queue) > 0


class RabbitMQDeadLetters:
    """A `DeadLetterStore` over a queue for each consumer."""

    def __init__(
        self, link: Link, publisher: Publisher, queue_type: QueueType, *, timeout: float
    ) -> None:
        self._link = link
        self._publisher = publisher
        self._most = _MOST[queue_type]
        self._timeout = timeout
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def read(self, consumer: str, *, limit: int, after: str | None) -> Sequence[DeadLetter]:
        """See `DeadLetterStore.read`. It goes over all of them, and keeps no more than `limit`."""
        page: list[tuple[str, Properties, bytes]] = []
        async with self._open(consumer) as reading:
            if reading is not None:
                async for some in reading.letters():
                    for _, properties, body in some:
                        letter = wire.letter_id(properties, body)
                        if letter > (after or ""):
                            page.append((letter, properties, body))
                    if len(page) >= 2 * limit:
                        page = heapq.nsmallest(limit, page, key=_first)
        page = heapq.nsmallest(limit, page, key=_first)
        return [wire.to_dead_letter(consumer, properties, body) for _, properties, body in page]

    async def scan(self, consumer: str) -> AsyncGenerator[DeadLetter]:
        """See `ScannedDeadLetters.scan`."""
        async with aclosing(self._scan(consumer, wire.to_dead_letter)) as all_:
            async for letters in all_:
                for letter in letters:
                    yield letter

    def scan_heads(self, consumer: str) -> AsyncGenerator[Sequence[DeadLetter]]:
        """See `HeadSource.scan_heads`. The protocol brings the bodies, which are not looked at."""
        return self._scan(consumer, wire.to_head)

    async def _scan(
        self, consumer: str, read: Callable[[str, Properties, bytes], DeadLetter]
    ) -> AsyncGenerator[Sequence[DeadLetter]]:
        async with self._open(consumer) as reading:
            if reading is not None:
                async with aclosing(reading.letters()) as letters:
                    async for some in letters:
                        yield [read(consumer, properties, body) for _, properties, body in some]

    async def redrive(self, consumer: str, ids: Sequence[str]) -> Sequence[str]:
        """See `DeadLetterStore.redrive`. Each is taken out when its queue has confirmed it."""
        return await self._redrive(consumer, ids)

    async def redrive_with_receipt(self, consumer: str, id: str) -> _Receipt | None:
        """See `ReceiptSource`. Who handles it puts a message into the receipt's queue."""
        queue = receipt_queue(consumer, id)
        await self._link.open(self._timeout)
        if self._link.connection is None:
            raise BusUnavailableError("RabbitMQ", "not connected")
        try:
            channel = await self._link.connection.channel(self._timeout)
            try:
                await declare(channel, queue)
            finally:
                await channel.close()
        except DriverError as error:
            raise BusUnavailableError("RabbitMQ", f"{queue}: {error}") from error
        if not await self._redrive(consumer, [id], queue.name):
            return None
        return _Receipt(self._count, queue.name)

    async def _redrive(
        self, consumer: str, ids: Sequence[str], receipt: str | None = None
    ) -> Sequence[str]:
        async def send(properties: Properties, body: bytes) -> None:
            topic = wire.to_dead_letter(consumer, properties, body).message.topic
            alive = wire.redriven(properties, receipt)
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
                count, _ = await counts(channel, queue)
            finally:
                await channel.close()
        except RefusedError as error:
            if error.code == _NOT_FOUND:
                return 0
            raise BusUnavailableError("RabbitMQ", f"{queue!r}: {error}") from error
        except TimeoutError as error:
            reason = f"{queue!r}: no answer within {self._timeout:g} s"
            raise BusUnavailableError("RabbitMQ", reason) from error
        except DriverError as error:
            raise BusUnavailableError("RabbitMQ", f"{queue!r}: {error}") from error
        return count

    async def _take(self, consumer: str, ids: Sequence[str], use: Any) -> Sequence[str]:
        wanted = set(ids)
        taken: list[str] = []
        async with self._open(consumer) as reading:
            if reading is not None:
                async with aclosing(reading.letters()) as letters:
                    async for some in letters:
                        for tag, properties, body in some:
                            letter = wire.letter_id(properties, body)
                            if letter in wanted:
                                await use(properties, body)
                                reading.take(tag)
                                taken.append(letter)
                                wanted.discard(letter)
                        if not wanted:
                            break
        return taken

    async def _put_back(self, queue: str, left: int) -> None:
        """Return when so many are in the queue again: of many, that takes the broker a while.

        Another reader may take some at once, so it is waited for only as long as more come back.
        """
        loop = asyncio.get_running_loop()
        seen, since = 0, loop.time()
        while left and (count := await self._count(queue)) < left:
            if count != seen:
                seen, since = count, loop.time()
            if loop.time() - since > (_LETTER_TIMEOUT if count else self._timeout):
                return
            await asyncio.sleep(_TURN)

    @asynccontextmanager
    async def _open(self, consumer: str) -> AsyncGenerator[_Reading | None, None]:
        """Become the exclusive consumer of the queue; None if it does not exist or is empty."""
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
                        await self._put_back(dead_letter_queue(consumer), reading.left)
        except TimeoutError:
            reason = f"{dead_letter_queue(consumer)!r} is in use by others, or does not answer"
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
                count, consumers = await counts(channel, queue)
                if consumers:  # another reader has some of them
                    await channel.close()
                    await asyncio.sleep(_TURN)
                    continue
                if not count:
                    await channel.close()
                    return None
                reading = _Reading(channel, queue, count, self._most)
                await reading.begin()
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


def _first(each: tuple[str, Properties, bytes]) -> str:
    return each[0]
