"""A running consumer of one topic: reading, its lease, and the entries of processes that died.

    open --> reading --pause--> settling --close--> closed

Two tasks: `_read` blocks on a connection of its own; `Upkeep` does what must be done now and then
on the transport's. The rules between processes that share the consumer's name:

- An entry that is read is pending for its reader, under an id that no other process has, and
  is renewed every third of the lease, however long its handler takes.
- What has not been renewed for a lease belonged to a dead process. Others take it over one at a
  time, oldest first, since one of them may be what killed it: what was in flight beside the killer
  is then handled, and acknowledged, without it.
- A lost answer to a read leaves entries pending here that were not seen: after each reconnect
  these come first.
- What a shutdown gives back is pending for no consumer, and is taken before anything new.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from uuid import uuid4

from msgspec import Struct

from events.errors import BusUnavailableError, InvalidTopologyError
from events.integration.brokering.dead_letters import record_of
from events.integration.brokering.read_ahead import READ_AHEAD
from events.integration.brokering.subscribed import BrokerSubscribed
from events.integration.implementation.redis._connecting import (
    Connector,
    DisconnectedError,
    ReplyError,
)
from events.integration.implementation.redis._entries import Entry, Keys
from events.integration.implementation.redis._groups import Groups
from events.integration.implementation.redis._link import Link
from events.integration.implementation.redis._scripts import CLAIM, LEAVE
from events.integration.implementation.redis._sending import REFUSALS
from events.integration.implementation.redis._settling import Settler
from events.integration.implementation.redis._upkeep import GONE, Upkeep
from events.integration.message import Reject, Retry, Settlement
from events.integration.transport import Deliver, Subscription

logger = logging.getLogger("events.integration")


_BLOCK = 5.0  # seconds for which a read waits for something new
_A_READ = 32  # entries that a command brings at most, as the size of the next ones is unknown
_ALL = 1 << 30
_FORGETTING = 7  # after a hundred others or so, the largest event was half as large
_PER_HANDLER = 16  # entries per handler where some wait behind their key
_SWIFT, _SLOW = 0.05, 0.2  # seconds for a batch: below it the next one is larger, above it smaller
_UNBLOCK_EVERY = 0.05
_RETRY_AFTER = 1.0
_READING = "read"  # a problem


class GroupOptions(Struct, frozen=True, kw_only=True):
    """The bus's options that a consumer needs."""

    start: str
    lease: float
    prefetch: int
    retention: float
    timeout: float


class StreamConsumer(BrokerSubscribed[Entry]):
    """A `Subscribed`: one process's part of a consumer group."""

    def __init__(
        self,
        link: Link,
        connector: Connector,
        subscription: Subscription,
        deliver: Deliver,
        options: GroupOptions,
    ) -> None:
        self.name = f"consumer {subscription.consumer!r} on topic {subscription.topic!r}"
        super().__init__(self.name, deliver)
        self._link = link
        self._options = options
        self.keys = Keys(subscription.topic, subscription.consumer)
        self.me = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:12]}"
        self._reader = Link(
            connector,
            self.name,
            timeout=options.timeout,
            level=logging.DEBUG,  # the bus's own connection tells of a server that is gone
            greeting=lambda: (("PING",), ("CLIENT", "ID")),
        )
        self._groups = Groups(link, self.keys, self._problems)
        self._settler = Settler(link, self.keys, self.me, self._problems, self._forget)
        self._upkeep = Upkeep(
            link,
            self,
            self._groups,
            self._problems,
            lease=options.lease,
            retention=options.retention,
        )
        self._in_flight: dict[tuple[str, bytes], Entry] = {}
        self._unsettled = self._bytes = self._largest = 0
        self._taken_over = 0
        self._least = subscription.concurrency * (_PER_HANDLER if subscription.ordered else 1)
        self._busy = subscription.concurrency
        self._low: int  # with no more than so many in flight, a read is worth its round trip
        self._set_limit(self._least)
        self._filled_at: float | None = None
        self._more = True
        self._room = asyncio.Event()
        self._is_waiting = False  # for room
        self._claiming = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None

    # --- lifecycle ----------------------------------------------------------------------------

    async def open(self) -> None:
        """Declare the groups, take what was given back, and start to read."""
        with self._refusals():
            await self._groups.open(self._options.start)
            await self._reader.open(self._options.timeout)
        for link in (self._link, self._reader):
            link.on_end.append(self.end)
        self._reading = self.spawn(self._read(), f"{self.name} reads")
        self.spawn(self._upkeep.run(), f"{self.name} keeps")

    async def announce(self) -> None:
        """Declare the groups, and no more."""
        with self._refusals():
            await self._groups.open(self._options.start)

    @contextmanager
    def _refusals(self) -> Generator[None]:
        """Raise our own errors for what the server says."""
        try:
            yield
        except ReplyError as error:
            reason = str(error)
            if error.code == "WRONGTYPE":
                reason = f"a key for a stream holds another type: {reason}"
            elif error.code not in REFUSALS:
                raise BusUnavailableError(self.name, reason) from error
            raise InvalidTopologyError(self.name, reason) from error
        except DisconnectedError as error:
            raise BusUnavailableError(self.name, str(error)) from error

    @property
    def in_flight(self) -> Iterable[tuple[str, bytes]]:
        """Return the streams and ids of what is in flight, or settled without an answer yet."""
        return self._in_flight

    @property
    def lacks_room(self) -> bool:
        """Return whether a settlement waits for room at the server."""
        return self._settler.lacks_room

    @property
    def last_poll(self) -> float | None:
        """See `Subscribed`."""
        return self._reader.last_heard

    @property
    def error(self) -> str | None:
        """Return what keeps it from its work."""
        return self._problems.text or self._reader.reason

    async def pause(self) -> None:
        """See `Subscribed`. The server ends the read on request, so that no answer is lost."""
        self._paused = True
        self._room.set()
        if self._reading is None:
            return
        give_up = asyncio.get_running_loop().time() + self._options.timeout
        while not self._reading.done():
            late = asyncio.get_running_loop().time() > give_up
            if late or not (self._reader.is_up and self._link.is_up):
                self._reading.cancel()
            else:
                with suppress(ReplyError, DisconnectedError):
                    await self._link.call("CLIENT", "UNBLOCK", self._reader.greeted[1])
            await asyncio.wait({self._reading}, timeout=_UNBLOCK_EVERY)

    async def settle_all(self) -> None:
        await self._settler.drain(self._options.timeout if self._link.is_up else 0)

    async def leave(self) -> None:
        """See `BrokerSubscribed`. What cannot be given back is redelivered after its lease."""
        await self._reader.close(0)
        if self.end in self._link.on_end:
            self._link.on_end.remove(self.end)
        if self._link.is_up:
            try:
                await self._link.run_script(LEAVE, self.keys.streams, self.keys.group, self.me)
            except (ReplyError, DisconnectedError) as error:
                logger.warning("%s could not release its events: %s", self.name, error)

    # --- reading ------------------------------------------------------------------------------

    async def _read(self) -> None:
        seen = self._generations
        while not self._paused:
            try:
                await self._wait_for_room()
                generations = self._generations
                if generations != seen:
                    await self.claim(own=True)
                    seen = generations
                if self._more and not self._paused:
                    await self.claim()
                    continue
                await self._read_new()
                if self._problems.reasons:
                    self._problems.clear(_READING)
            except ReplyError as error:
                if error.code in GONE:
                    await self._groups.make_again()
                    continue
                if error.code != "READONLY":  # of which the link says all there is
                    self._problems.report(_READING, f"it cannot read: {error}")
                await asyncio.sleep(_RETRY_AFTER)
            except DisconnectedError:
                await self._reader.wait_up()

    @property
    def _generations(self) -> tuple[int, int]:
        """Return what is new after an answer was lost: to a read, or to a claim."""
        return self._reader.generation, self._link.generation

    async def _read_new(self) -> None:
        if self._paused:
            return
        left = self._most
        taken = await self._read_some(min(left, _A_READ), wait=True)
        while _A_READ <= taken < left and self._bytes_left > 0 and not self._paused:
            # They may have been larger than any before.
            left = min(left - taken, self._most)
            taken = await self._read_some(min(left, _A_READ), wait=False)
        self._filled_at = asyncio.get_running_loop().time() if taken >= left else None

    async def _read_some(self, count: int, *, wait: bool) -> int:
        """Read so many entries of each stream at most; return how many there were."""
        block = ("BLOCK", int(_BLOCK * 1000)) if wait else ()
        reply = await self._reader.call(
            *("XREADGROUP", "GROUP", self.keys.group, self.me, "COUNT", count, *block),
            *("STREAMS", *self.keys.streams, ">", ">"),
            timeout=_BLOCK + self._options.timeout,
        )
        if self._paused or not reply:
            return 0
        taken = 0
        for stream, entries in reply:
            name = stream.decode()
            for entry in entries:
                self._take(Entry.read(self.keys, name, entry))
            taken += len(entries)
        return taken

    async def _wait_for_room(self) -> None:
        """Return when so few are in flight that a read is worth its round trip."""
        while not (self._has_room or self._paused):
            self._room.clear()
            self._is_waiting = True
            await self._room.wait()
            self._is_waiting = False
        if self._filled_at is not None:
            # A batch that was gone at once was too small; one that takes long would rather have
            # been another process's.
            took = asyncio.get_running_loop().time() - self._filled_at
            if took < _SWIFT:
                self._set_limit(max(self._least, min(2 * self._limit, self._options.prefetch)))
            elif took > _SLOW:
                self._set_limit(max(self._least, self._limit // 2))
            self._filled_at = None

    @property
    def _has_room(self) -> bool:
        """Return whether so few are in flight, and so small ones, that more may be read."""
        return self._unsettled <= self._low and 2 * self._bytes_left >= READ_AHEAD

    def _set_limit(self, limit: int) -> None:
        self._limit = limit
        self._low = max(limit // 2, self._busy - 1) if limit > 1 else 0

    @property
    def _most(self) -> int:
        """Return how many may be read, if they are as large as the largest recent one."""
        room = self._limit - self._unsettled
        if not self._largest:
            room = min(room, self._busy)  # as their size is unknown
        elif room * self._largest > self._bytes_left:
            room = self._bytes_left // self._largest
        return max(1, room)

    @property
    def _bytes_left(self) -> int:
        """Return how many bytes may be read, beside what the handlers have begun."""
        return READ_AHEAD + self._busy * self._largest - self._bytes

    # --- handing over, and back ---------------------------------------------------------------

    def _take(self, entry: Entry) -> None:
        place = (entry.stream, entry.id)
        if place in self._in_flight or self._paused:
            return
        self._in_flight[place] = entry
        self._unsettled += 1
        self._bytes += entry.size
        largest = self._largest - (self._largest >> _FORGETTING)
        self._largest = entry.size if entry.size > largest else largest  # noqa: FURB136
        self._taken_over += entry.taken_over
        self.hand_over(entry, entry.delivery(self.keys))

    def settle(self, in_flight: Entry, settlement: Settlement) -> None:
        self._unsettled -= 1
        self._bytes -= in_flight.size
        if (self._is_waiting or self._more) and self._unsettled <= self._low and self._has_room:
            self._room.set()
            if self._more:  # the reader may be waiting for what is new
                self._upkeep.claim_soon()
        self.carry_out(in_flight, settlement)

    def ack(self, in_flight: Entry) -> None:
        self._settler.ack(in_flight)

    def retry(self, in_flight: Entry, retry: Retry) -> None:
        self._settler.retry(in_flight, retry)
        self._upkeep.expect(retry.after)

    def dead_letter(self, in_flight: Entry, reject: Reject) -> None:
        record = record_of(in_flight.delivery(self.keys), reject, type="")
        self._settler.dead_letter(in_flight, record)

    def release(self, in_flight: Entry) -> None:
        if not self._paused:  # else `leave` gives it back with all the others
            self._settler.park(in_flight)

    def _forget(self, entry: Entry) -> None:
        self._in_flight.pop((entry.stream, entry.id), None)
        if entry.taken_over:
            # Only now: an ack that dies with the process would count against this one again.
            self._taken_over -= 1
            self._upkeep.claim_soon()

    # --- taking over --------------------------------------------------------------------------

    async def claim(self, *, own: bool = False) -> None:
        """Take what was given back, one of a dead process, or with `own` mine that is unseen."""
        async with self._claiming:  # or two at once would each take one of a dead process
            if self._paused:
                return
            if not (own or self._has_room):  # another process may be idle
                self._more = True
                return
            count, size = self._most, max(1, self._bytes_left)
            if own:
                count = size = _ALL
            streams = self.keys.streams
            claimed = await self._link.run_script(
                CLAIM,
                streams,
                *(self.keys.group, self.me, int(self._options.lease * 1000), count),
                *(0 if self._taken_over else 1, int(own), size),
            )
            left, last = False, True
            for stream, (taken, lost, more) in zip(streams, claimed, strict=True):
                if lost:
                    logger.error(
                        "%s: %d events were removed from %r before they were handled",
                        self.name,
                        lost,
                        stream,
                    )
                for number, fields, count, taken_over in taken:
                    reply = number, fields
                    entry = Entry.read(self.keys, stream, reply, count, taken_over=bool(taken_over))
                    if taken_over:
                        logger.info(
                            "%s takes over %s from a process that died or was silent for %g s",
                            self.name,
                            entry.message_id,
                            self._options.lease,
                        )
                    self._take(entry)
                    last = bool(taken_over)
                left |= bool(more)
            # Entries of dead processes are taken over step by step, and new ones only once it is
            # known whether more are left: they must not overtake.
            # What others left is not in an answer that had `own` alone.
            self._more = own or (left and not last)
