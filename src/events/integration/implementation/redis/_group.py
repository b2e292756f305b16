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
from uuid import uuid4

from msgspec import Struct

from events.errors import BusUnavailableError, InvalidTopologyError
from events.integration.brokering.dead_letters import record_of
from events.integration.implementation.redis._connecting import (
    Connector,
    DisconnectedError,
    ReplyError,
)
from events.integration.implementation.redis._entries import Entry, Keys, topics_key
from events.integration.implementation.redis._link import Link
from events.integration.implementation.redis._scripts import CLAIM, LEAVE
from events.integration.implementation.redis._settling import Settler
from events.integration.implementation.redis._upkeep import GONE, Upkeep
from events.integration.message import Ack, Delivery, Reject, Release, Retry, Settlement
from events.integration.transport import Deliver, Subscription

__all__ = ["GroupOptions", "StreamConsumer"]

logger = logging.getLogger("events.integration")


_BLOCK = 5.0  # seconds for which a read waits for something new
_ALL = 100_000
_AT_HAND = 16  # entries per handler where some wait behind their key
_SWIFT, _SLOW = 0.05, 0.2  # seconds for a batch: below it the next one is larger, above it smaller
_UNBLOCK_EVERY = 0.05
_AFTER_TROUBLE = 1.0


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
        self._settler = Settler(link, self.keys, self.me, self._forget)
        self._upkeep = Upkeep(link, self, lease=options.lease, retention=options.retention)
        self._known: dict[tuple[str, bytes], Entry] = {}
        self._in_hand = 0
        self._suspects = 0
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
            await self._link.call(
                "SADD", topics_key(self.keys.group), self.keys.topic, timeout=None
            )
            await self._reader.open(self._options.timeout)
        except ReplyError as error:
            reason = str(error)
            if error.code == "WRONGTYPE":
                reason = f"a key that is to be a stream holds something else: {reason}"
            raise InvalidTopologyError(self.name, reason) from error
        except DisconnectedError as error:
            raise BusUnavailableError(self.name, str(error)) from error
        self._reading = asyncio.create_task(self._read(), name=f"{self.name} reads")
        self._upkeep.start().add_done_callback(self._task_ended)
        self._reading.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) and not self._closed.done():
            self._closed.set_exception(error)

    @property
    def held(self) -> Iterable[tuple[str, bytes]]:
        """Return the streams and ids of what is in hand, or settled without an answer yet."""
        return self._known

    @property
    def last_poll(self) -> float | None:
        """See `Subscribed`."""
        return self._reader.last_heard

    async def pause(self) -> None:
        """See `Subscribed`. The server is told to end the read, so that no answer is lost."""
        self._paused = True
        self._room.set()
        if self._reading is None:
            return
        give_up = asyncio.get_running_loop().time() + self._options.timeout
        while not self._reading.done():
            late = asyncio.get_running_loop().time() > give_up
            if late or not (self._reader.connected and self._link.connected):
                self._reading.cancel()
            else:
                with suppress(ReplyError, DisconnectedError):
                    await self._link.call("CLIENT", "UNBLOCK", self._reader.greeted[1])
            await asyncio.wait({self._reading}, timeout=_UNBLOCK_EVERY)

    async def close(self) -> None:
        """See `Subscribed`. What cannot be given back comes again when its lease is over."""
        await self.pause()
        await self._settler.drain(self._options.timeout if self._link.connected else 0)
        await self._upkeep.stop()
        await self._reader.close(0)
        if self._link.connected:
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
        seen, troubled = self._reader.generation, False
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
                troubled = False
            except ReplyError as error:
                if error.code in GONE:
                    await self.make_again()
                    continue
                if not troubled:
                    logger.error("%s cannot read, and tries again: %s", self.name, error)  # noqa: TRY400
                troubled = True
                await asyncio.sleep(_AFTER_TROUBLE)
            except DisconnectedError:
                await self._reader.up.wait()

    async def _read_new(self) -> None:
        if self._paused:
            return
        count = max(1, self._limit - self._in_hand)
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
        while self._in_hand > self._low and not self._paused:
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
    def _low(self) -> int:
        return max(self._limit // 2, self._busy - 1) if self._limit > 1 else 0

    # --- handing over, and back ---------------------------------------------------------------

    def _hand(self, entry: Entry) -> None:
        place = (entry.stream, entry.id)
        if place in self._known or self._paused:
            return
        self._known[place] = entry
        self._in_hand += 1
        self._suspects += entry.suspect
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
        if self._in_hand <= self._low:
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
        if entry.suspect:
            # Only now: an ack that dies with the process would count against this one again.
            self._suspects -= 1
            self._upkeep.claim_soon()

    # --- taking over --------------------------------------------------------------------------

    async def claim(self, *, own: bool = False) -> None:
        """Take what was given back, one of the dead's, or with `own` what is mine and unseen."""
        async with self._claiming:  # or two at once would each take one of the dead's
            if self._paused:
                return
            room = _ALL if own else max(1, self._limit - self._in_hand)
            streams = self.keys.streams
            claimed = await self._link.run_script(
                CLAIM,
                streams,
                *(self.keys.group, self.me, int(self._options.lease * 1000), room),
                *(0 if self._suspects else 1, int(own)),
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
                for number, fields, count, suspect in taken:
                    reply = number, fields
                    entry = Entry.read(self.keys, stream, reply, count, suspect=bool(suspect))
                    if suspect:
                        logger.info(
                            "%s takes over %s from a process that died, or said nothing for %g s",
                            self.name,
                            entry.message_id,
                            self._options.lease,
                        )
                    self._hand(entry)
                    last = bool(suspect)
                left |= bool(more)
            # More of the dead's comes by and by. Not before it is known: what is new must not
            # overtake.
            self._more = left and not last

    # --- groups -------------------------------------------------------------------------------

    async def _make_groups(self, start: str) -> list[str]:
        """Make the groups that are not there; return the streams that they were made on."""
        made: list[str] = []
        for stream in self.keys.streams:
            begin = start if stream == self.keys.topic else "0"
            try:
                await self._link.call(
                    "XGROUP", "CREATE", stream, self.keys.group, begin, "MKSTREAM"
                )
            except ReplyError as error:
                if error.code != "BUSYGROUP":
                    raise
            else:
                made.append(stream)
        return made

    async def make_again(self) -> None:
        made: list[str] = []
        with suppress(DisconnectedError, ReplyError):
            made = await self._make_groups("0")
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
