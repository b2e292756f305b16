"""Asking for messages: as many as there is room for, again after whatever went wrong.

    pulling --no consumer, no stream, no word, a new connection--> mending --> pulling
       '--stop--> stopped                                             '--> ended, with an error

What is asked for is never more than the window has room for. It grows while a window's worth is
settled in a moment, and shrinks to what is settled in one, so that a slow consumer leaves to its
twins what it cannot begin; with nothing to do it is as narrow as can be.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error as NatsError

from events.errors import BusError, BusUnavailableError
from events.integration.implementation.nats._api import Api
from events.integration.implementation.nats._driver import Incoming
from events.integration.implementation.nats._link import Link, end
from events.integration.implementation.nats._topology import (
    NANO,
    ConsumerSpec,
    StreamSpec,
    consumer_exists,
    ensure_consumer,
    ensure_stream,
)
from events.integration.implementation.nats._writer import Outgoing, Writer

__all__ = ["Pulls", "Window"]

logger = logging.getLogger("events.integration")

_WIDEST = 500
_MOMENT = 0.2  # seconds
_EXPIRES, _HEARTBEAT = 30.0, 5.0
_WIDE_EXPIRES = 1.0  # whoever has nothing to do soon asks for no more than it can begin
_SILENCE = 2.5 * _HEARTBEAT
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0


class Window:
    """How many messages may be at hand."""

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
    """Pull for one consumer. `take` gets each message, `anew` is told that all begins anew."""

    def __init__(  # noqa: PLR0913 - all by keyword
        self,
        *,
        link: Link,
        writer: Writer,
        api: Api,
        stream: StreamSpec,
        consumer: ConsumerSpec,
        window: Window,
        at_hand: Callable[[], int],
        take: Callable[[Incoming], None],
        anew: Callable[[], None],
        ended: Callable[[Exception], None],
    ) -> None:
        self._link = link
        self._writer = writer
        self._api = api
        self._stream = stream
        self._consumer = consumer
        self._window = window
        self._at_hand = at_hand
        self._take = take
        self._anew = anew
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self.heard = self._loop.time()
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream.name}.{consumer.name}"
        self._inbox = ""
        self._subscription: NatsSubscription | None = None
        self._asked: dict[int, int] = {}
        self._requested = 0
        self._number = 0
        self._pulling = False
        self._trouble = asyncio.Event()
        self._tending: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Make what is missing and ask; raise `InvalidTopologyError` if that cannot be."""
        await ensure_stream(self._api, self._stream)
        if await ensure_consumer(self._api, self._consumer) == "made":
            logger.info("made NATS consumer %r on %r", self._consumer.name, self._stream.name)
        try:
            await self._listen(fresh=True)
        except (NatsError, OSError) as error:
            raise BusUnavailableError(self._link.name, str(error)) from error
        self._link.add_listener(self._on_up, self._ended)
        self._tending = asyncio.create_task(self._tend(), name=f"nats-pulls {self._consumer.name}")
        self._pulling = True
        self.ask()

    async def stop(self) -> None:
        """Ask no more, and return when all that the server has sent was taken."""
        self._pulling = False
        self._link.remove_listener(self._on_up, self._ended)
        if self._tending is not None:
            await end(self._tending)
        if self._subscription is None or not self._link.up:
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
        at_hand, size = self._at_hand(), self._window.size
        wanted = size - at_hand - self._requested
        if wanted <= 0 or (2 * wanted < size and self._requested + at_hand):
            return
        self._number += 1
        self._asked[self._number] = wanted
        self._requested += wanted
        if wanted > self._window.narrowest:
            body = b'{"batch":%d,"expires":%d}' % (wanted, _WIDE_EXPIRES * NANO)
        else:
            times = _EXPIRES * NANO, _HEARTBEAT * NANO
            body = b'{"batch":%d,"expires":%d,"idle_heartbeat":%d}' % (wanted, *times)
        self._writer.put(Outgoing(self._next, body, f"{self._inbox}.{self._number}"))

    # --- answers ------------------------------------------------------------------------------

    def _on_message(self, message: Incoming) -> None:
        self.heard = self._loop.time()
        if message.subject.startswith(self._inbox):
            number = int(message.subject[len(self._inbox) + 1 :])
            self._on_status(number, message.headers or {})
            return
        # A message comes under its own subject, which does not tell what it answers. The server
        # fills the oldest pull first.
        number = next(iter(self._asked), 0)
        left = self._asked.get(number)
        if left is not None:
            self._requested -= 1
            if left == 1:
                del self._asked[number]
            else:
                self._asked[number] = left - 1
        self._take(message)

    def _on_status(self, number: int, headers: dict[str, str]) -> None:
        status = headers.get("Status")
        if status == "100":  # a sign of life
            return
        self._requested -= self._asked.pop(number, 0)
        if status in ("404", "408"):  # its time is over
            if not self._at_hand():
                self._window.size = self._window.narrowest
            self.ask()
        else:
            logger.debug("%s cannot pull: %s", self._consumer.name, headers)
            self._mend()

    # --- mending ------------------------------------------------------------------------------

    async def _on_up(self, fresh: bool) -> None:  # noqa: FBT001 - a listener
        await self._listen(fresh=fresh)
        self._mend()

    async def _listen(self, *, fresh: bool) -> None:
        self._asked.clear()
        self._requested = 0
        if fresh:
            self._inbox = self._link.client.new_inbox()
            self._subscription = await self._link.listen(f"{self._inbox}.*", self._on_message)

    def _mend(self) -> None:
        self._pulling = False
        self._trouble.set()

    async def _tend(self) -> None:
        """Mend what is broken, notice what is silent."""
        wait, mended = _FIRST_WAIT, 0.0
        while True:
            try:
                async with asyncio.timeout(_HEARTBEAT):
                    await self._trouble.wait()
            except TimeoutError:
                silent = self._loop.time() - self.heard
                if self._requested and silent > _SILENCE and self._link.up:
                    self._mend()
                continue
            if self._loop.time() - mended < _LONGEST_WAIT:  # it did not help, or not for long
                await asyncio.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
            else:
                wait = _FIRST_WAIT
            try:
                await self._mend_now()
            except BusError as error:
                self._ended(error)
                return
            mended = self._loop.time()

    async def _mend_now(self) -> None:
        wait = _FIRST_WAIT
        while True:
            self._trouble.clear()
            await self._link.wait_up()
            try:
                await ensure_stream(self._api, self._stream)
                if await ensure_consumer(self._api, self._consumer) == "made":
                    self._anew()
                    logger.error(
                        "NATS consumer %r on stream %r was gone and has been made again: all that "
                        "the stream holds is delivered to it anew",
                        self._consumer.name,
                        self._stream.name,
                    )
            except BusUnavailableError as error:
                logger.debug("%s cannot pull: %s", self._consumer.name, error)
            else:
                if not self._trouble.is_set():
                    break
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
        self._asked.clear()
        self._requested = 0
        self.heard = self._loop.time()
        self._pulling = True
        self.ask()
