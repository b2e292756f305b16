"""Asking for messages: as many as there is room for, again after whatever went wrong.

    pulling --no consumer, no stream, no word, a new connection--> mending --> pulling
       '--stop--> stopped                                             '--> ended, with an error

What is asked for is never more than the window has room for. It grows while a window's worth is
settled in a moment, and shrinks to what is settled in one, so that a slow consumer leaves to its
twins what it cannot begin; with nothing to do it is as narrow as can be. What is read ahead is
bounded in bytes as well, and each pull says how many it may bring.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec
from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error as NatsError

from events.errors import BusError, BusUnavailableError
from events.integration.brokering.backoff import Backoff
from events.integration.brokering.problems import Problems
from events.integration.brokering.read_ahead import READ_AHEAD
from events.integration.brokering.supervisor import end
from events.integration.implementation.nats._api import Api
from events.integration.implementation.nats._denials import Denial
from events.integration.implementation.nats._driver import Incoming
from events.integration.implementation.nats._limits import PullLimits
from events.integration.implementation.nats._link import Link
from events.integration.implementation.nats._topology import (
    NANO,
    ConsumerSpec,
    StreamSpec,
    check_consumer,
    consumer_exists,
    ensure_consumer,
    ensure_stream,
)
from events.integration.implementation.nats._writer import Outgoing, Writer

logger = logging.getLogger("events.integration")

_WIDEST = 500
_MOMENT = 0.2  # seconds
_EXPIRES, _HEARTBEAT = 30.0, 5.0
_WIDE_EXPIRES = 1.0  # an idle consumer requests only as many as it can begin
_SILENCE = 2.5 * _HEARTBEAT
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0
_SHARE = 4  # pulls at once, among which they are shared
_BESIDE = 8_192  # bytes that the server counts beside a message's own: its subjects
_PULL, _MEND = "pull", "mend"  # problems
_USUAL = ("consumer deleted", "leadership change", "server shutdown", "exceeded maxwaiting")


class _Asked:
    """A pull that is being answered."""

    __slots__ = ("batch", "bytes", "left")

    def __init__(self, batch: int, bytes: int) -> None:
        self.batch = self.left = batch
        self.bytes = bytes


class Window:
    """The number of messages that may be in flight."""

    def __init__(self, narrowest: int) -> None:
        self.narrowest = narrowest
        self.size = narrowest
        self._loop = asyncio.get_running_loop()
        self._settled = 0
        self._since = self._loop.time()

    def settled(self) -> None:
        """Count one, and look after a while whether the size is right."""
        self._settled += 1
        took = self._loop.time() - self._since
        if self._settled >= self.size and took < _MOMENT:
            self.size = min(2 * self.size, max(_WIDEST, self.narrowest))
        elif took > _MOMENT:
            worth = int(self._settled * _MOMENT / took)
            self.size = max(self.narrowest, min(self.size, worth))
        else:
            return
        self._settled, self._since = 0, self._loop.time()


class Pulls:
    """Pull for one consumer. `take` gets each message; `restarted` follows a new start of all."""

    def __init__(  # noqa: PLR0913 - all by keyword
        self,
        *,
        link: Link,
        writer: Writer,
        api: Api,
        stream: StreamSpec,
        consumer: ConsumerSpec,
        window: Window,
        in_flight: Callable[[], int],
        unbegun: Callable[[], int],
        problems: Problems,
        take: Callable[[Incoming], None],
        restarted: Callable[[], None],
        ended: Callable[[Exception], None],
    ) -> None:
        self._link = link
        self._writer = writer
        self._api = api
        self._stream = stream
        self._consumer = consumer
        self._window = window
        self._in_flight = in_flight
        self._unbegun = unbegun
        self._problems = problems
        self._limits = PullLimits()
        self._failing = False
        self._again: asyncio.TimerHandle | None = None
        self._unbounded = False  # the next message is larger than a pull may bring
        self._take = take
        self._restarted = restarted
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self.heard = self._loop.time()
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream.name}.{consumer.name}"
        self._inbox = ""
        self._subscription: NatsSubscription | None = None
        self._asked: dict[int, _Asked] = {}
        self._requested = 0
        self._requested_bytes = 0
        self._number = 0
        self._pulling = False
        self._broken = asyncio.Event()
        self._tending: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Make what is missing and ask; raise `InvalidTopologyError` if that cannot be."""
        await ensure_stream(self._api, self._stream)
        if await self._ensure_consumer():
            logger.info("created NATS consumer %r on %r", self._consumer.name, self._stream.name)
        try:
            await self._listen(fresh=True)
        except (NatsError, OSError) as error:
            raise BusUnavailableError(self._link.name, str(error)) from error
        self._link.add_listener(self._on_up, self._ended)
        self._link.on_denied.append(self._on_denied)
        self._tending = asyncio.create_task(self._tend(), name=f"nats-pulls {self._consumer.name}")
        self._pulling = True
        self.ask()

    async def _ensure_consumer(self) -> bool:
        """Have the consumer be there, and know its limits; return whether it was made."""
        consumer = await ensure_consumer(self._api, self._consumer)
        self._limits.read(consumer.config)
        return consumer.made

    async def stop(self) -> None:
        """Ask no more, and return when all that the server has sent was taken."""
        self._pulling = False
        self._link.remove_listener(self._on_up, self._ended)
        self._link.on_denied.remove(self._on_denied)
        if self._again is not None:
            self._again.cancel()
        if self._tending is not None:
            await end(self._tending)
        if self._subscription is None or not self._link.is_up:
            return
        try:
            # What the server has sent would else be gone until the end of its lease.
            await self._link.leave(self._subscription)
            # Until it looks, a server (2.9 at least) counts on pulls whose inbox is gone: each of
            # them would have one that is given back wait for the end of its lease.
            await consumer_exists(self._api, self._consumer)
        except (NatsError, OSError, TimeoutError, BusError) as error:
            logger.debug("%s: leaving its inbox: %s", self._consumer.name, error)

    def ask(self) -> None:
        """Ask for as many as there is room for, if it is worth it."""
        if not self._pulling:
            return
        in_flight, size = self._in_flight(), self._window.size
        wanted = size - in_flight - self._requested
        if wanted <= 0 or (2 * wanted < size and self._requested + in_flight):
            return
        limits = self._limits
        while wanted > 0 and (limits.waiting is None or len(self._asked) < limits.waiting):
            batch = 1 if self._unbounded else min(wanted, limits.batch or wanted)
            room = self._room()
            if room <= 0:
                return
            self._ask(batch, room)
            if self._unbounded:
                return
            wanted -= batch

    def _room(self) -> int:
        """Return how many bytes one more pull may bring; 0 if enough are on their way."""
        largest = self._link.client.max_payload + _BESIDE
        budget = max(READ_AHEAD, largest)
        waiting = self._unbegun() + self._requested_bytes
        if waiting and budget - waiting < largest:
            return 0
        room = min(budget - waiting, max(budget // _SHARE, largest))
        return min(room, self._limits.bytes or room)

    def _ask(self, batch: int, room: int) -> None:
        self._number += 1
        self._asked[self._number] = _Asked(batch, room)
        self._requested += batch
        self._requested_bytes += room
        longest = self._limits.expires or _EXPIRES
        pull = {"batch": batch}
        if not self._unbounded:
            pull["max_bytes"] = room
        if batch > self._window.narrowest:
            pull["expires"] = int(min(_WIDE_EXPIRES, longest) * NANO)
        else:
            expires = min(_EXPIRES, longest)
            pull["expires"] = int(expires * NANO)
            pull["idle_heartbeat"] = int(min(_HEARTBEAT, expires / 3) * NANO)
        body = msgspec.json.encode(pull)
        self._writer.put(Outgoing(self._next, body, f"{self._inbox}.{self._number}"))

    # --- answers ------------------------------------------------------------------------------

    def _on_message(self, message: Incoming) -> None:
        self.heard = self._loop.time()
        if message.subject.startswith(self._inbox):
            number = int(message.subject[len(self._inbox) + 1 :])
            self._on_status(number, message.headers or {})
            return
        if self._failing:
            self._well()
        # A message comes under its own subject, which does not tell what it answers. The server
        # fills the oldest pull first.
        number = next(iter(self._asked), 0)
        asked = self._asked.get(number)
        if asked is not None:
            size = min(len(message.body), asked.bytes)
            self._requested -= 1
            self._requested_bytes -= size
            asked.left -= 1
            asked.bytes -= size
            if not asked.left:
                self._is_over(number)
            self._unbounded = False
        self._take(message)

    def _is_over(self, number: int) -> _Asked | None:
        asked = self._asked.pop(number, None)
        if asked is not None:
            self._requested -= asked.left
            self._requested_bytes -= asked.bytes
        return asked

    def _on_status(self, number: int, headers: dict[str, str]) -> None:
        status = headers.get("Status")
        if status == "100":  # a sign of life
            self._well()
            return
        asked = self._is_over(number)
        description = headers.get("Description", "")
        said = description.lower()
        if status in ("404", "408"):  # its time is over
            self._well()
            if not self._in_flight():
                self._window.size = self._window.narrowest
            self.ask()
        elif "exceeds maxbytes" in said or "batch completed" in said:
            self._unbounded = asked is not None and asked.left == asked.batch
            self.ask()
        elif self._limits.learn(description):
            logger.info("%s requests smaller batches: %s", self._consumer.name, description)
            self.ask()
        else:
            if status == "409" and not said.startswith(_USUAL):
                reason = f"its requests are refused: {status} {description}"
                self._problems.report(_PULL, reason)
                self._failing = True
            logger.debug("%s cannot pull: %s", self._consumer.name, headers)
            self._mend()

    def _on_denied(self, denial: Denial) -> None:
        if denial.verb == "publish" and denial.subject == self._next.lower():
            self._problems.report(_PULL, f"it has no permission to request events: {denial.text}")
            self._failing = True
            if self._again is None:
                self._again = self._loop.call_later(_LONGEST_WAIT, self._ask_again)

    def _ask_again(self) -> None:
        self._again = None
        self._mend()

    def _well(self) -> None:
        if self._failing:
            self._failing = False
            self._problems.clear(_PULL)

    # --- mending ------------------------------------------------------------------------------

    async def _on_up(self, fresh: bool) -> None:  # noqa: FBT001 - a listener
        await self._listen(fresh=fresh)
        self._mend()

    async def _listen(self, *, fresh: bool) -> None:
        self._forget_asked()
        if fresh:
            self._inbox = self._link.client.new_inbox()
            self._subscription = await self._link.listen(f"{self._inbox}.*", self._on_message)

    def _forget_asked(self) -> None:
        self._asked.clear()
        self._requested = self._requested_bytes = 0

    def _mend(self) -> None:
        self._pulling = False
        self._broken.set()

    async def _tend(self) -> None:
        """Mend what is broken, notice what is silent."""
        backoff, mended = Backoff(_FIRST_WAIT, _LONGEST_WAIT), 0.0
        while True:
            try:
                async with asyncio.timeout(_HEARTBEAT):
                    await self._broken.wait()
            except TimeoutError:
                silent = self._loop.time() - self.heard
                if self._requested and silent > _SILENCE and self._link.is_up:
                    self._mend()
                continue
            if self._loop.time() - mended < _LONGEST_WAIT:  # it did not help, or not for long
                await backoff.pause()
            else:
                backoff.reset()
            try:
                await self._mend_now()
            except BusError as error:
                self._ended(error)
                return
            mended = self._loop.time()

    async def _mend_now(self) -> None:
        backoff, began = Backoff(_FIRST_WAIT, _LONGEST_WAIT), self._loop.time()
        gone = False  # also in a later round: the answer to its creation may be lost
        while True:
            self._broken.clear()
            if not self._link.is_up:
                await self._link.wait_up()
                began = self._loop.time()
            try:
                await ensure_stream(self._api, self._stream)
                gone = gone or await check_consumer(self._api, self._consumer) is None
                await self._ensure_consumer()
                if gone:
                    gone = False
                    self._restarted()
                    logger.error(
                        "NATS consumer %r on stream %r was missing and has been recreated: all "
                        "messages in the stream are delivered to it again",
                        self._consumer.name,
                        self._stream.name,
                    )
            except BusUnavailableError as error:
                logger.debug("%s cannot pull: %s", self._consumer.name, error)
                if self._loop.time() - began > _LONGEST_WAIT:  # no mere change of leaders
                    self._problems.report(_MEND, f"it cannot consume: {error.reason}")
            else:
                self._problems.clear(_MEND)
                if not self._broken.is_set():
                    break
            await backoff.pause()
        self._forget_asked()
        self.heard = self._loop.time()
        self._pulling = True
        self.ask()
