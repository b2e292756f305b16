"""One consumer of one topic at work: reading, keeping its lease, taking over from the dead.

    open --> reading --pause--> settling --close--> closed

Two tasks: `_read` blocks on a connection of its own, `_keep` does what must be done now and then on
the transport's. The rules between processes that share the consumer's name:

- An entry that is read is pending for whoever read it, under an id that no other process has, and
  is renewed every third of the lease, however long its handler takes.
- What has not been renewed for a lease belonged to a dead process. Others take it over one at a
  time, oldest first, since one of them may be what killed it: what was at hand beside the killer is
  then handled without it. After `max_deaths` deaths it is a dead letter, unhandled.
- A lost answer to a read leaves entries pending here that nobody has seen: after each reconnect
  these come first.
- What a shutdown gives back is pending for nobody, and is taken before anything new.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import uuid4

from msgspec import Struct

from events.errors import BusUnavailableError, InvalidTopologyError
from events.integration.implementation.redis._connecting import (
    Connector,
    DisconnectedError,
    ReplyError,
)
from events.integration.implementation.redis._entries import Entry, Keys, topics_key
from events.integration.implementation.redis._link import Link
from events.integration.implementation.redis._scripts import (
    CLAIM,
    LEAVE,
    RENEW,
    RIPEN,
    SWEEP,
    TRIM,
    Script,
)
from events.integration.implementation.redis._settling import Settler
from events.integration.message import Ack, Delivery, Reject, Release, Retry, Settlement
from events.integration.transport import Deliver, Subscription

__all__ = ["GroupOptions", "StreamConsumer"]

logger = logging.getLogger("events.integration")

CRASHED = "crashed"

_BLOCK = 5.0  # seconds for which a read waits for something new
_TICK = 5.0  # seconds between looks at what others have left behind
_RIPEN_AT_ONCE = 100
_RENEWED_AT_ONCE = 1_000
_ALL = 100_000
_AT_HAND = 16  # entries per handler where some wait behind their key
_SWIFT, _SLOW = 0.05, 0.2  # seconds for a batch: below it the next one is larger, above it smaller
_UNBLOCK_EVERY = 0.05
_AFTER_TROUBLE = 1.0
_GONE = frozenset({"NOGROUP", "UNBLOCKED"})


class GroupOptions(Struct, frozen=True, kw_only=True):
    """What a consumer needs to know of the bus's options."""

    start: str
    lease: float
    prefetch: int
    max_deaths: int
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
        self._keys = Keys(subscription.topic, subscription.consumer)
        self._name = f"consumer {subscription.consumer!r} on topic {subscription.topic!r}"
        self._me = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:12]}"
        self._reader = Link(
            connector,
            self._name,
            timeout=options.timeout,
            level=logging.INFO,
            greeting=lambda: (("PING",), ("CLIENT", "ID")),
        )
        self._settler = Settler(link, self._keys, self._me, self._forget)
        self._known: dict[tuple[str, bytes], Entry] = {}
        self._in_hand = 0
        self._suspects = 0
        self._least = subscription.concurrency * (_AT_HAND if subscription.ordered else 1)
        self._limit = self._least
        self._busy = subscription.concurrency
        self._filled_at: float | None = None
        self._more = True
        self._due: float | None = None
        self._room = asyncio.Event()
        self._nudge = asyncio.Event()
        self._paused = False
        self._reading: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # --- lifecycle ----------------------------------------------------------------------------

    async def open(self) -> None:
        """Declare the groups, take what was given back, and start to read."""
        try:
            await self._make_groups(self._options.start)
            await self._link.call(
                "SADD", topics_key(self._keys.group), self._keys.topic, timeout=None
            )
            await self._reader.open(self._options.timeout)
        except ReplyError as error:
            reason = str(error)
            if error.code == "WRONGTYPE":
                reason = f"a key that is to be a stream holds something else: {reason}"
            raise InvalidTopologyError(self._name, reason) from error
        except DisconnectedError as error:
            raise BusUnavailableError(self._name, str(error)) from error
        self._reading = asyncio.create_task(self._read(), name=f"{self._name} reads")
        self._keeping = asyncio.create_task(self._keep(), name=f"{self._name} keeps")
        self._reading.add_done_callback(self._task_ended)
        self._keeping.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) and not self._closed.done():
            self._closed.set_exception(error)

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
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        await self._reader.close(0)
        if self._link.connected:
            try:
                await self._link.run_script(LEAVE, self._keys.streams, self._keys.group, self._me)
            except (ReplyError, DisconnectedError) as error:
                logger.warning("%s could not give back what it held: %s", self._name, error)
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
                    await self._claim(own=True)
                    seen = generation
                if self._more and not self._paused:
                    await self._claim()
                    continue
                await self._read_new()
                troubled = False
            except ReplyError as error:
                if error.code in _GONE:
                    await self._make_again()
                    continue
                if not troubled:
                    logger.error("%s cannot read, and tries again: %s", self._name, error)  # noqa: TRY400
                troubled = True
                await asyncio.sleep(_AFTER_TROUBLE)
            except DisconnectedError:
                await self._reader.up.wait()

    async def _read_new(self) -> None:
        if self._paused:
            return
        count = max(1, self._limit - self._in_hand)
        reply = await self._reader.call(
            *("XREADGROUP", "GROUP", self._keys.group, self._me, "COUNT", count),
            *("BLOCK", int(_BLOCK * 1000), "STREAMS", *self._keys.streams, ">", ">"),
            timeout=_BLOCK + self._options.timeout,
        )
        if self._paused or not reply:
            return
        taken = 0
        for stream, entries in reply:
            name = stream.decode()
            for entry in entries:
                self._hand(Entry.read(self._keys, name, entry))
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
        if entry.deaths >= self._options.max_deaths and entry.suspect:
            text = f"the process that handled it died, {entry.deaths} times in a row"
            logger.error("%s gives up on %s: %s", self._name, entry.message_id, text)
            self._settle(entry, Reject(CRASHED, text, entry.attempt - 1))
            return
        delivery = Delivery(
            self._keys.topic,
            self._keys.group,
            entry.message_id,
            entry.body,
            entry.headers,
            entry.attempt,
            entry.key,
        )
        self._deliver(delivery).add_done_callback(partial(self._on_settlement, entry))

    def _on_settlement(self, entry: Entry, future: asyncio.Future[Settlement]) -> None:
        self._settle(entry, future.result())

    def _settle(self, entry: Entry, settlement: Settlement) -> None:
        self._in_hand -= 1
        if self._in_hand <= self._low:
            self._room.set()
        if entry.suspect:
            self._suspects -= 1
            self._nudge.set()
        match settlement:
            case Ack():
                self._settler.ack(entry)
            case Retry():
                self._settler.retry(entry, settlement)
                self._expect(settlement.after)
            case Reject():
                self._settler.bury(entry, settlement)
            case Release():
                if not self._paused:  # else `close` gives it back with all the others
                    self._settler.park(entry)

    def _forget(self, entry: Entry) -> None:
        self._known.pop((entry.stream, entry.id), None)

    # --- now and then -------------------------------------------------------------------------

    def _expect(self, seconds: float) -> None:
        """Look for due retries in so many seconds, at the latest."""
        due = asyncio.get_running_loop().time() + seconds + 0.003
        if self._due is None or due < self._due:
            self._due = due
            self._nudge.set()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        tick = min(self._options.lease / 3, _TICK)
        next_tick = loop.time()
        troubled = False
        while True:
            wake = next_tick if self._due is None else min(next_tick, self._due)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(wake):
                    await self._nudge.wait()
            self._nudge.clear()
            now = loop.time()
            ticks = now >= next_tick
            if ticks:
                next_tick = now + tick
            try:
                await self._look_after(ticks=ticks)
                troubled = False
            except ReplyError as error:
                if error.code in _GONE:
                    await self._make_again()
                elif not troubled:
                    logger.error("%s cannot keep its lease: %s", self._name, error)  # noqa: TRY400
                    troubled = True
            except DisconnectedError:
                await self._link.up.wait()

    async def _look_after(self, *, ticks: bool) -> None:
        if ticks:
            await self._renew()
        if ticks or (self._due is not None and self._due <= asyncio.get_running_loop().time()):
            await self._ripen()
        if not self._paused and not self._suspects:
            await self._claim()
        if ticks:
            await self._tidy()

    async def _script(self, script: Script, keys: list[str], *args: object) -> Any:
        return await self._link.run_script(script, keys, *args)

    async def _ripen(self) -> None:
        keys = self._keys
        self._due = None
        wait = await self._script(RIPEN, [keys.due, keys.later, keys.again], _RIPEN_AT_ONCE)
        if wait >= 0:
            self._expect(wait / 1000)

    async def _renew(self) -> None:
        for stream in self._keys.streams:
            held = [place for place in self._known if place[0] == stream]
            for start in range(0, len(held), _RENEWED_AT_ONCE):
                ids = [entry_id for _, entry_id in held[start : start + _RENEWED_AT_ONCE]]
                gone = await self._script(RENEW, [stream], self._keys.group, self._me, *ids)
                for lost in gone:
                    # Settled meanwhile, or taken over: a handler that still runs is let be.
                    logger.debug("%s holds %s no longer", self._name, lost)

    async def _claim(self, *, own: bool = False) -> None:
        """Take what was given back, one of the dead's, or with `own` what is mine and unseen."""
        self._more = False
        for stream in self._keys.streams:
            room = _ALL if own else max(1, self._limit - self._in_hand)
            taken, lost, more = await self._script(
                CLAIM,
                [stream],
                *(self._keys.group, self._me, int(self._options.lease * 1000), room),
                *(0 if self._suspects else 1, int(own)),
            )
            if lost:
                logger.error(
                    "%s: %d events were removed from %r before they were handled",
                    self._name,
                    lost,
                    stream,
                )
            for number, fields, count, suspect in taken:
                reply = number, fields
                self._hand(Entry.read(self._keys, stream, reply, count, suspect=bool(suspect)))
            # More that nobody holds: before anything new. More of the dead's comes by and by.
            self._more = self._more or bool(more and taken and not taken[-1][3])

    async def _tidy(self) -> None:
        silence = int(max(3 * self._options.lease, 4 * _BLOCK) * 1000)
        for stream in self._keys.streams:
            await self._script(SWEEP, [stream], self._keys.group, silence)
        await self._script(TRIM, [self._keys.topic], int(self._options.retention * 1000))

    # --- groups -------------------------------------------------------------------------------

    async def _make_groups(self, start: str) -> list[str]:
        """Make the groups that are not there; return the streams that they were made on."""
        made: list[str] = []
        for stream in self._keys.streams:
            begin = start if stream == self._keys.topic else "0"
            try:
                await self._link.call(
                    "XGROUP", "CREATE", stream, self._keys.group, begin, "MKSTREAM"
                )
            except ReplyError as error:
                if error.code != "BUSYGROUP":
                    raise
            else:
                made.append(stream)
        return made

    async def _make_again(self) -> None:
        made: list[str] = []
        with suppress(DisconnectedError, ReplyError):
            made = await self._make_groups("0")
        if self._keys.topic in made:
            logger.error(
                "%s: its stream or group was gone and is made again, from the start: "
                "what is left in the stream is delivered, even if it was handled before",
                self._name,
            )
        elif made:
            logger.error("%s: its stream of retries was gone and is made again", self._name)
        else:
            await asyncio.sleep(_AFTER_TROUBLE)
