"""One consumer of one topic at work: reading, keeping its lease, taking over from the dead.

    open --> reading --pause--> settling --close--> closed

Two tasks: `_read` blocks on a connection of its own; `Upkeep` does what must be done now and then
on the transport's. The rules between processes that share the consumer's name:

- An entry that is read is pending for whoever read it, under an id that no other process has, and
  is renewed every third of the lease, however long its handler takes.
- What has not been renewed for a lease belonged to a dead process. Others take it over one at a
  time, oldest first, since one of them may be what killed it: what was at hand beside the killer
  is then handled, and acknowledged, without it.
- A lost answer to a read leaves entries pending here that nobody has seen: after each reconnect
  these come first.
- What a shutdown gives back is pending for nobody, and is taken before anything new.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import uuid4

from msgspec import Struct

from events.errors import BusUnavailableError, InvalidTopologyError
from events.integration.brokering.dead_letters import record_of
from events.integration.brokering.problems import Problems
from events.integration.brokering.read_ahead import READ_AHEAD
from events.integration.implementation.redis._connecting import (
    Connector,
    DisconnectedError,
    ReplyError,
)
from events.integration.implementation.redis._entries import Entry, Keys, topics_key
from events.integration.implementation.redis._link import Link
from events.integration.implementation.redis._scripts import CLAIM, LEAVE
from events.integration.implementation.redis._sending import REFUSALS
from events.integration.implementation.redis._settling import Settler
from events.integration.implementation.redis._upkeep import GONE, Upkeep
from events.integration.message import Ack, Delivery, Reject, Release, Retry, Settlement
from events.integration.transport import Deliver, Subscription

__all__ = ["GroupOptions", "StreamConsumer"]

logger = logging.getLogger("events.integration")


_BLOCK = 5.0  # seconds for which a read waits for something new
_ALL = 1 << 30
_FORGETTING = 7  # after a hundred others or so, the largest event was half as large
_AT_HAND = 16  # entries per handler where some wait behind their key
_SWIFT, _SLOW = 0.05, 0.2  # seconds for a batch: below it the next one is larger, above it smaller
_UNBLOCK_EVERY = 0.05
_AFTER_TROUBLE = 1.0
_READING, _DECLARING = "read", "declare again"  # problems


class GroupOptions(Struct, frozen=True, kw_only=True):
    """What a consumer needs to know of the bus's options."""

    start: str
    lease: float
    prefetch: int
    retention: float
    timeout: float


class StreamConsumer:
    """A `Subscribed`: one process's part of a consumer group."""

    def __init__(
        self,
        link: Link,
        connector: Connector,
        subscription: Subscription,
        deliver: Deliver,
        options: GroupOptions,
    ) -> None:
        self._link = link
        self._deliver = deliver
        self._options = options
        self.keys = Keys(subscription.topic, subscription.consumer)
        self.name = f"consumer {subscription.consumer!r} on topic {subscription.topic!r}"
        self.me = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:12]}"
        self._reader = Link(
            connector,
            self.name,
            timeout=options.timeout,
            level=logging.DEBUG,  # the bus's own connection tells of a server that is gone
            greeting=lambda: (("PING",), ("CLIENT", "ID")),
        )
        self._group_name = subscription.consumer.encode()
        self._problems = Problems(self.name)
        self._settler = Settler(link, self.keys, self.me, self._problems, self._forget)
        self._upkeep = Upkeep(
            link, self, self._problems, lease=options.lease, retention=options.retention
        )
        self._known: dict[tuple[str, bytes], Entry] = {}
        self._in_hand = self._bytes = self._largest = 0
        self._taken_over = 0
        self._least = subscription.concurrency * (_AT_HAND if subscription.ordered else 1)
        self._limit = self._least
        self._busy = subscription.concurrency
        self._filled_at: float | None = None
        self._more = True
        self._room = asyncio.Event()
        self._claiming = asyncio.Lock()
        self._paused = False
        self._reading: asyncio.Task[None] | None = None
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # --- lifecycle ----------------------------------------------------------------------------

    async def open(self) -> None:
        """Declare the groups, take what was given back, and start to read."""
        try:
            await self._make_groups(self._options.start)
            await self._list_topic_if_there_is_room()
            await self._reader.open(self._options.timeout)
        except ReplyError as error:
            reason = str(error)
            if error.code == "WRONGTYPE":
                reason = f"a key that is to be a stream holds something else: {reason}"
            elif error.code not in REFUSALS:
                raise BusUnavailableError(self.name, reason) from error
            raise InvalidTopologyError(self.name, reason) from error
        except DisconnectedError as error:
            raise BusUnavailableError(self.name, str(error)) from error
        for link in (self._link, self._reader):
            link.on_end.append(self._end)
        self._reading = asyncio.create_task(self._read(), name=f"{self.name} reads")
        self._upkeep.start().add_done_callback(self._task_ended)
        self._reading.add_done_callback(self._task_ended)

    async def _list_topic_if_there_is_room(self) -> None:
        """List the topic for who reads dead letters; if that must wait, the upkeep does it."""
        try:
            await self._list_topic()
        except ReplyError as error:
            if error.code in REFUSALS:
                raise

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self._end(error)

    def _end(self, error: BaseException) -> None:
        """End by itself: it cannot go on."""
        if not self._closed.done():
            self._closed.set_exception(error)

    @property
    def held(self) -> Iterable[tuple[str, bytes]]:
        """Return the streams and ids of what is in hand, or settled without an answer yet."""
        return self._known

    @property
    def lacks_room(self) -> bool:
        """Tell whether a settlement waits for room at the server."""
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
        """See `Subscribed`. The server is told to end the read, so that no answer is lost."""
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

    async def close(self) -> None:
        """See `Subscribed`. What cannot be given back comes again when its lease is over."""
        await self.pause()
        await self._settler.drain(self._options.timeout if self._link.is_up else 0)
        await self._upkeep.stop()
        await self._reader.close(0)
        if self._end in self._link.on_end:
            self._link.on_end.remove(self._end)
        if self._link.is_up:
            try:
                await self._link.run_script(LEAVE, self.keys.streams, self.keys.group, self.me)
            except (ReplyError, DisconnectedError) as error:
                logger.warning("%s could not give back what it held: %s", self.name, error)
        if not self._closed.done():
            self._closed.set_result(None)

    async def wait_closed(self) -> None:
        """See `Subscribed`."""
        await asyncio.shield(self._closed)

    # --- reading ------------------------------------------------------------------------------

    async def _read(self) -> None:
        seen = self._reader.generation
        while not self._paused:
            try:
                await self._wait_for_room()
                generation = self._reader.generation
                if generation != seen:
                    await self.claim(own=True)
                    seen = generation
                if self._more and not self._paused:
                    await self.claim()
                    continue
                await self._read_new()
                if self._problems:
                    self._problems.clear(_READING)
            except ReplyError as error:
                if error.code in GONE:
                    await self.make_again()
                    continue
                if error.code != "READONLY":  # of which the link says all there is
                    self._problems.report(_READING, f"it cannot read: {error}")
                await asyncio.sleep(_AFTER_TROUBLE)
            except DisconnectedError:
                await self._reader.wait_up()

    async def _read_new(self) -> None:
        if self._paused:
            return
        count = self._most
        reply = await self._reader.call(
            *("XREADGROUP", "GROUP", self.keys.group, self.me, "COUNT", count),
            *("BLOCK", int(_BLOCK * 1000), "STREAMS", *self.keys.streams, ">", ">"),
            timeout=_BLOCK + self._options.timeout,
        )
        if self._paused or not reply:
            return
        taken = 0
        for stream, entries in reply:
            name = stream.decode()
            for entry in entries:
                self._hand(Entry.read(self.keys, name, entry))
            taken += len(entries)
        self._filled_at = asyncio.get_running_loop().time() if taken >= count else None

    async def _wait_for_room(self) -> None:
        """Return when so few are in hand that a read is worth its round trip."""
        while not (self._has_room or self._paused):
            self._room.clear()
            await self._room.wait()
        if self._filled_at is not None:
            # A batch that was gone at once was too small; one that takes long would rather have
            # been another process's.
            took = asyncio.get_running_loop().time() - self._filled_at
            if took < _SWIFT:
                self._limit = max(self._least, min(2 * self._limit, self._options.prefetch))
            elif took > _SLOW:
                self._limit = max(self._least, self._limit // 2)
            self._filled_at = None

    @property
    def _has_room(self) -> bool:
        """Tell whether so few are in hand, and so small ones, that more may be read."""
        return self._in_hand <= self._low and 2 * self._bytes_left >= READ_AHEAD

    @property
    def _low(self) -> int:
        return max(self._limit // 2, self._busy - 1) if self._limit > 1 else 0

    @property
    def _most(self) -> int:
        """Return how many may be read, if they are as large as the largest of late."""
        room = self._limit - self._in_hand
        if not self._largest:
            room = min(room, self._busy)  # of what nobody knows the size
        elif room * self._largest > self._bytes_left:
            room = self._bytes_left // self._largest
        return max(1, room)

    @property
    def _bytes_left(self) -> int:
        """Return how many bytes may be read, beside what the handlers have begun."""
        return READ_AHEAD + self._busy * self._largest - self._bytes

    # --- handing over, and back ---------------------------------------------------------------

    def _hand(self, entry: Entry) -> None:
        place = (entry.stream, entry.id)
        if place in self._known or self._paused:
            return
        self._known[place] = entry
        self._in_hand += 1
        self._bytes += entry.size
        self._largest = max(entry.size, self._largest - (self._largest >> _FORGETTING))
        self._taken_over += entry.taken_over
        future = self._deliver(self._delivery(entry))
        future.add_done_callback(partial(self._on_settlement, entry))

    def _delivery(self, entry: Entry) -> Delivery:
        return Delivery(
            self.keys.topic,
            self.keys.group,
            entry.message_id,
            entry.body,
            entry.headers,
            entry.attempt,
            entry.key,
            entry.crashes,
        )

    def _on_settlement(self, entry: Entry, future: asyncio.Future[Settlement]) -> None:
        self._settle(entry, future.result())

    def _settle(self, entry: Entry, settlement: Settlement) -> None:
        self._in_hand -= 1
        self._bytes -= entry.size
        if self._has_room:
            self._room.set()
            if self._more:  # the reader may be waiting for what is new
                self._upkeep.claim_soon()
        match settlement:
            case Ack():
                self._settler.ack(entry)
            case Retry():
                self._settler.retry(entry, settlement)
                self._upkeep.expect(settlement.after)
            case Reject():
                record = record_of(self._delivery(entry), settlement, type="")
                self._settler.dead_letter(entry, record)
            case Release():
                if not self._paused:  # else `close` gives it back with all the others
                    self._settler.park(entry)

    def _forget(self, entry: Entry) -> None:
        self._known.pop((entry.stream, entry.id), None)
        if entry.taken_over:
            # Only now: an ack that dies with the process would count against this one again.
            self._taken_over -= 1
            self._upkeep.claim_soon()

    # --- taking over --------------------------------------------------------------------------

    async def claim(self, *, own: bool = False) -> None:
        """Take what was given back, one of the dead's, or with `own` what is mine and unseen."""
        async with self._claiming:  # or two at once would each take one of the dead's
            if self._paused:
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
                            "%s takes over %s from a process that died, or said nothing for %g s",
                            self.name,
                            entry.message_id,
                            self._options.lease,
                        )
                    self._hand(entry)
                    last = bool(taken_over)
                left |= bool(more)
            # More of the dead's comes by and by. Not before it is known: what is new must not
            # overtake.
            self._more = left and not last

    # --- groups -------------------------------------------------------------------------------

    async def declare(self, start: str = "0") -> list[str]:
        """Make what is not there; return the streams on which groups were made."""
        made = await self._make_groups(start)
        await self._list_topic()
        return made

    async def _make_groups(self, start: str) -> list[str]:
        made: list[str] = []
        for stream in self.keys.streams:
            # In each, names and values take turns.
            groups = await self._look("XINFO", "GROUPS", stream) or ()
            if not any(it[it.index(b"name") + 1] == self._group_name for it in groups):
                begin = start if stream == self.keys.topic else "0"
                if await self._make_group(stream, begin):
                    made.append(stream)
        return made

    async def _list_topic(self) -> None:
        topics = topics_key(self.keys.group)
        if not await self._look("SISMEMBER", topics, self.keys.topic):
            await self._link.call("SADD", topics, self.keys.topic)

    async def _look(self, *command: str) -> Any:
        """Look before writing: a full server refuses what writes, and who empties it must start.

        Return None where there is nothing, or it is forbidden to look.
        """
        try:
            return await self._link.call(*command)
        except ReplyError as error:
            if error.code not in {"no", "NOPERM"}:  # such key
                raise
        return None

    async def _make_group(self, stream: str, begin: str) -> bool:
        """Make it; return whether it was not there."""
        try:
            await self._link.call("XGROUP", "CREATE", stream, self.keys.group, begin, "MKSTREAM")
        except ReplyError as error:
            if error.code != "BUSYGROUP":
                raise
            return False
        return True

    async def make_again(self) -> None:
        made: list[str] = []
        try:
            made = await self.declare()
        except DisconnectedError:
            return
        except ReplyError as error:
            self._problems.report(_DECLARING, f"it cannot make its stream and group again: {error}")
        else:
            self._problems.clear(_DECLARING)
        if self.keys.topic in made:
            logger.error(
                "%s: its stream or group was gone and is made again, from the start: "
                "what is left in the stream is delivered, even if it was handled before",
                self.name,
            )
        elif made:
            logger.error("%s: its stream of retries was gone and is made again", self.name)
        else:
            await asyncio.sleep(_AFTER_TROUBLE)
