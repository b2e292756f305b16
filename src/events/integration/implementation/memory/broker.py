"""The broker of in-memory buses: queues, delays, dead letters, all in one event loop.

It holds a queue for each consumer of a topic, made when the consumer first registers and kept until
the broker goes, so what is sent while a consumer is stopped waits for it. Buses that share a broker
in one process behave as processes that share a real one do. A message is in one of these places,
and moves along the arrows only:

    sent --> ready --> in flight --Ack--> gone
               ^           |-----Release--> ready, where it was
               |           |-----Retry--> delayed --due--> ready, at the end
               |           '-----Reject--> dead letter --redrive--> ready, at the end
               '-- full of dead letters: delayed, and tried again --'

All is gone with the process; for more, put the outbox before it or a durable bus in its place.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Protocol

from msgspec.structs import replace

from events.integration.cloudevents import own_id
from events.integration.health import Backlog
from events.integration.message import DeadLetter, Message, Reject, Release, Retry, Settlement
from events.integration.paging import number_after

logger = logging.getLogger("events.integration")

_AT_ONCE = 1_000  # dead letters that are looked at before the event loop has its turn
_DEAD_LETTER_RETRY = 1.0  # seconds until a message is tried again that no dead letter could hold


class Entry:
    """A message at one consumer's queue. `number` is its place in line."""

    __slots__ = ("attempt", "message", "number", "redriven")

    def __init__(
        self, number: int, message: Message, attempt: int = 1, *, redriven: bool = False
    ) -> None:
        self.number = number
        self.message = message
        self.attempt = attempt
        self.redriven = redriven


class Taker(Protocol):
    """One who handles messages of a queue."""

    @property
    def has_room(self) -> bool:
        """Return whether it can handle one more."""
        ...

    def take(self, entry: Entry, /) -> None:
        """Handle it, and settle it with the queue in the end."""
        ...


class Queue:
    """The unhandled events of one consumer on one topic, shared by all with its name."""

    def __init__(self, broker: InMemoryBroker, topic: str, consumer: str) -> None:
        self.topic = topic
        self.consumer = consumer
        self._broker = broker
        self._numbers = itertools.count()
        self._ready: deque[Entry] = deque()
        self._delayed: list[tuple[float, int, Entry]] = []
        self._in_flight = 0
        self.settled = 0
        self._takers: deque[Taker] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def takers(self) -> int:
        """Return how many take from it."""
        return len(self._takers)

    @property
    def unsettled(self) -> int:
        """Return how many messages are ready, delayed or in flight."""
        return sum(self.counts)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Return how many messages are ready, delayed, and in flight."""
        return len(self._ready), len(self._delayed), self._in_flight

    def put(self, message: Message, attempt: int = 1, *, redriven: bool = False) -> None:
        """Put a message at the end of the line."""
        self._ready.append(Entry(next(self._numbers), message, attempt, redriven=redriven))
        self._hand_out()

    def join(self, taker: Taker) -> None:
        """Begin to hand messages to this taker as well, in turn."""
        self._takers.append(taker)
        self._hand_out()
        self._arm()

    def leave(self, taker: Taker) -> None:
        """Hand it nothing more; what it has, it still settles."""
        self._takers.remove(taker)
        self._arm()

    def freed(self, taker: Taker) -> None:
        """Go on after a taker has settled something."""
        if self._ready and taker in self._takers:
            self._hand_out()

    def _hand_out(self) -> None:
        idle = 0
        while self._ready and idle < len(self._takers):
            taker = self._takers[0]
            self._takers.rotate(-1)  # in turn, so that those who share a name share the work
            if not taker.has_room:
                idle += 1
                continue
            idle = 0
            self._in_flight += 1
            taker.take(self._ready.popleft())

    def settle(self, entry: Entry, settlement: Settlement) -> None:
        """Move a message that is in flight to where its settlement says."""
        self._in_flight -= 1
        self.settled += 1
        if isinstance(settlement, Release):
            self._put_back(entry)
        elif isinstance(settlement, Retry):
            entry.attempt = settlement.attempt + 1
            self._delay(entry, settlement.after)
        elif isinstance(settlement, Reject) and not self._broker.keep_dead(self, entry, settlement):
            self._delay(entry, _DEAD_LETTER_RETRY)
        self._broker.settled()

    def _put_back(self, entry: Entry) -> None:
        later: list[Entry] = []
        while self._ready and self._ready[0].number < entry.number:
            later.append(self._ready.popleft())
        self._ready.appendleft(entry)
        self._ready.extendleft(reversed(later))
        self._hand_out()

    def _delay(self, entry: Entry, seconds: float) -> None:
        heapq.heappush(self._delayed, (monotonic() + seconds, entry.number, entry))
        self._arm()

    def _arm(self) -> None:
        """Set the timer for what is due first, on the loop of those who take."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._delayed and self._takers:
            wait = max(0.0, self._delayed[0][0] - monotonic())
            self._timer = asyncio.get_running_loop().call_later(wait, self._promote)

    def _promote(self) -> None:
        self._timer = None
        now = monotonic()
        while self._delayed and self._delayed[0][0] <= now:
            entry = heapq.heappop(self._delayed)[2]
            entry.number = next(self._numbers)
            self._ready.append(entry)
        self._arm()
        self._hand_out()


class InMemoryBroker:
    """Hold the queues and dead letters of any number of in-memory buses in one event loop.

    `max_dead_letters` bounds what each consumer keeps of them: when that is reached, a message that
    should become one stays in its queue and is tried again every second, loudly.
    """

    def __init__(self, *, max_dead_letters: int = 10_000) -> None:
        self.max_dead_letters = max_dead_letters
        self._queues: dict[str, dict[str, Queue]] = {}
        self._dead: defaultdict[str, dict[str, DeadLetter]] = defaultdict(dict)
        self._dead_numbers = itertools.count(1)
        self._quiet: set[asyncio.Future[None]] = set()
        self.paused: set[str] = set()

    def pending(self) -> dict[tuple[str, str], int]:
        """Return how many messages each (topic, consumer) has yet to settle, none where it is 0."""
        return {
            (queue.topic, queue.consumer): queue.unsettled
            for queues in self._queues.values()
            for queue in queues.values()
            if queue.unsettled
        }

    def consumers(self) -> dict[tuple[str, str], int]:
        """Return how many registrations take for each (topic, consumer), none where it is 0."""
        return {
            (queue.topic, queue.consumer): queue.takers
            for queues in self._queues.values()
            for queue in queues.values()
            if queue.takers
        }

    def backlog(self, consumer: str, topics: Sequence[str]) -> Backlog:
        """Return what this consumer has yet to handle of these topics."""
        there = [self._queues.get(topic, {}).get(consumer) for topic in topics]
        queues = [queue for queue in there if queue is not None]
        counts = [queue.counts for queue in queues]
        ready, delayed, in_flight = (sum(each) for each in zip((0, 0, 0), *counts, strict=True))
        dead = len(self._dead.get(consumer, ()))
        settled = sum(queue.settled for queue in queues)
        return Backlog(ready, dead, in_flight, delayed, settled=settled)

    async def quiet(self) -> None:
        """Return when every message is handled or a dead letter, those in retry included."""
        while self.pending():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._quiet.add(waiter)
            try:
                await waiter
            finally:
                self._quiet.discard(waiter)

    def settled(self) -> None:
        """Wake the callers that wait until all messages are handled."""
        for waiter in self._quiet:
            if not waiter.done():
                waiter.set_result(None)

    def publish(self, message: Message) -> None:
        """Put the message into the queue of each consumer of its topic."""
        for queue in self._queues.get(message.topic, {}).values():
            queue.put(message)

    def queue(self, topic: str, consumer: str) -> Queue:
        """Return the consumer's queue on the topic, made if it was not there."""
        queues = self._queues.setdefault(topic, {})
        if consumer not in queues:
            queues[consumer] = Queue(self, topic, consumer)
        return queues[consumer]

    def keep_dead(self, queue: Queue, entry: Entry, reject: Reject) -> bool:
        """Keep the entry as a dead letter, or tell that there is no room for it."""
        dead = self._dead[queue.consumer]
        if len(dead) >= self.max_dead_letters:
            logger.error(
                "%s has %d dead letters, the maximum, so %s stays in its queue; "
                "redrive or discard some, or raise max_dead_letters",
                queue.consumer,
                len(dead),
                entry.message.id,
            )
            return False
        number = str(next(self._dead_numbers))
        dead[number] = DeadLetter(
            number,
            queue.consumer,
            _as_logged(entry.message),
            reject.reason,
            reject.error,
            reject.attempts,
            datetime.now(UTC),
        )
        return True

    async def read(self, consumer: str, *, limit: int, after: str | None) -> Sequence[DeadLetter]:
        """See `DeadLetterStore.read`."""
        start = number_after(after)
        letters = (d for d in self._dead[consumer].values() if int(d.id) > start)
        return list(itertools.islice(letters, limit))

    async def scan_heads(self, consumer: str) -> AsyncGenerator[Sequence[DeadLetter]]:
        """See `HeadSource.scan_heads`. The event loop has its turn between two batches."""
        letters = iter(tuple(self._dead[consumer].values()))
        while some := list(itertools.islice(letters, _AT_ONCE)):
            yield some
            await asyncio.sleep(0)

    async def redrive(self, consumer: str, ids: Sequence[str]) -> Sequence[str]:
        """See `DeadLetterStore.redrive`."""
        letters = self._take_out(consumer, ids)
        for letter in letters:
            self.queue(letter.message.topic, consumer).put(letter.message, redriven=True)
        return [letter.id for letter in letters]

    async def discard(self, consumer: str, ids: Sequence[str]) -> Sequence[str]:
        """See `DeadLetterStore.discard`."""
        return [letter.id for letter in self._take_out(consumer, ids)]

    def _take_out(self, consumer: str, ids: Sequence[str]) -> Sequence[DeadLetter]:
        dead = self._dead[consumer]
        return [dead.pop(number) for number in dict.fromkeys(ids) if number in dead]


def _as_logged(message: Message) -> Message:
    """Return it with the id that it was delivered under: an envelope has its own."""
    event_id = own_id(message.headers, message.body)
    return message if event_id in {None, message.id} else replace(message, id=event_id)
