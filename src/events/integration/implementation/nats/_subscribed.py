"""One registration's consumer: messages pulled, handed over, settled.

    requested --arrives--> at hand --room--> handed over --settled--> acknowledged
                             |   '--delivered before: its entry is read and written first--^
                             '--shutdown--> given back

At hand is never more than the window: it grows while messages are handled faster than they come,
and shrinks when they take long, so that a slow consumer leaves to its twins what it cannot begin.
Everything that is at hand or handed over keeps its lease by a sign of life, every third of
`ack_wait`; a lost connection changes nothing about it, its settlement leaves when there is one.

    pulling --no consumer, no stream, no word, a new connection--> mending --> pulling
       '--pause--> paused --close--> closed                       '--> ended, with an error

A message that was delivered before and left no word may be what killed its process. Such are handed
over one at a time, so that a next death tells which of them it was; after `deaths` of them in a row
it becomes a dead letter.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from functools import partial
from typing import Any

import msgspec
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error as NatsError

from events.errors import BusError, BusUnavailableError
from events.integration.implementation.nats import _wire as wire
from events.integration.implementation.nats._api import Api, ApiError
from events.integration.implementation.nats._graveyard import TYPE, Graveyard
from events.integration.implementation.nats._ledger import Ledger, Record
from events.integration.implementation.nats._link import Link, end
from events.integration.implementation.nats._names import redrive_subject, type_in, type_subject
from events.integration.implementation.nats._topology import (
    NANO,
    ConsumerSpec,
    StreamSpec,
    consumer_exists,
    ensure_consumer,
    ensure_stream,
)
from events.integration.implementation.nats._writer import Outgoing, Writer
from events.integration.message import Ack, Delivery, Reject, Release, Retry, Settlement
from events.integration.transport import Deliver, Subscription

__all__ = ["PROCESS_DIED", "NatsSubscribed", "Session"]

PROCESS_DIED = "process-died"

logger = logging.getLogger("events.integration")

_ACK, _NAK, _ALIVE = b"+ACK", b"-NAK", b"+WPI"
_WIDEST = 500  # messages at hand at most
_AHEAD = 2  # deliveries handed over that wait for their turn there
_AT_HAND = 16  # deliveries per handler where some wait behind their key
_SLOW = 0.2  # seconds for a window's worth: below it grows, beyond it shrinks
_PULL_EXPIRES, _PULL_HEARTBEAT = 30.0, 5.0
_WIDE_PULL_EXPIRES = 1.0  # whoever has nothing to do soon asks for no more than it can begin
_SILENCE = 2.5 * _PULL_HEARTBEAT
_UNBURIED = 1.0  # seconds until a message is tried again that no dead letter could hold
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0
_DRAINING = 2.0


class Session(msgspec.Struct):
    """What all consumers of a transport share."""

    link: Link
    writer: Writer
    api: Api
    ledger: Ledger
    graveyard: Graveyard
    timeout: float
    ack_wait: float
    deaths: int


class Hand:
    """A message that is ours until it is settled."""

    __slots__ = (
        "attempt",
        "body",
        "headers",
        "name",
        "place",
        "reply",
        "silent",
        "subject",
        "written",
    )

    def __init__(self, message: Msg, place: wire.Position, name: str) -> None:
        self.subject = message.subject
        self.reply = message.reply
        self.body = message.data
        self.headers = message.headers or {}
        self.place = place
        self.name = name
        self.attempt = 1
        self.silent = 0  # attempts before this one that ended without a word
        self.written = False  # the ledger has an entry


class NatsSubscribed:
    """A running consumer; see `events.integration.transport.Subscribed`."""

    def __init__(
        self,
        session: Session,
        subscription: Subscription,
        stream: StreamSpec,
        consumer: ConsumerSpec,
        deliver: Deliver,
    ) -> None:
        self._session = session
        self._subscription = subscription
        self._stream = stream
        self._spec = consumer
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._redriven = redrive_subject(stream.name, consumer.name)
        self._wanted = {type_subject(stream.name, name) for name in subscription.types}
        self._wanted.add(self._redriven)
        # A few more than can run at once, so that the next begins when one ends.
        ahead = (_AT_HAND - 1) * subscription.concurrency if subscription.ordered else _AHEAD
        self._room = subscription.concurrency + ahead
        self._narrowest = self._room if subscription.ordered else subscription.concurrency
        self._window = self._narrowest
        self._settled_before = (0, self._loop.time())
        self._settled = 0
        self._hand: dict[int, Hand] = {}
        self._waiting: deque[Hand] = deque()
        self._begun = 0
        self._alone = asyncio.Lock()
        self._pulls: dict[int, int] = {}
        self._requested = 0
        self._pull_number = 0
        self._inbox = ""
        self._inbox_subscription: NatsSubscription | None = None
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream.name}.{consumer.name}"
        self._paused = False
        self._mending = True
        self._trouble = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._tending: asyncio.Task[None] | None = None
        self._pulse: asyncio.TimerHandle | None = None
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._heard = self._loop.time()
        self._unburied = False

    @property
    def last_poll(self) -> float | None:
        return self._heard

    # --- starting and ending ------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to deliver; raise `InvalidTopologyError` if that cannot be."""
        session = self._session
        await ensure_stream(session.api, self._stream)
        if await ensure_consumer(session.api, self._spec) == "made":
            logger.info("made NATS consumer %r on %r", self._spec.name, self._stream.name)
        try:
            await self._listen(fresh=True)
        except (NatsError, OSError) as error:
            raise BusUnavailableError(session.link.name, str(error)) from error
        session.link.add_listener(self._on_up, self._end)
        self._tending = asyncio.create_task(self._tend(), name=f"nats-consumer {self._spec.name}")
        self._pulse = self._loop.call_later(self._session.ack_wait / 3, self._beat)
        self._trouble.clear()
        self._mending = False
        self._pull()

    async def pause(self) -> None:
        if self._paused:
            return
        self._paused = True
        self._session.link.remove_listener(self._on_up, self._end)
        if self._tending is not None:
            await end(self._tending)
        subscription = self._inbox_subscription
        if subscription is not None and self._session.link.up:
            try:
                # What the server has sent is taken yet, and given back: it would be gone until the
                # end of its lease.
                async with asyncio.timeout(_DRAINING):
                    await self._session.link.leave(subscription)
                # Until it looks, a server (2.9 at least) counts on pulls whose inbox is gone: each
                # would have one that is given back wait for the end of its lease.
                await consumer_exists(self._session.api, self._spec)
            except (NatsError, OSError, TimeoutError, BusError) as error:
                logger.debug("%s: leaving its inbox: %s", self._spec.name, error)
        while self._waiting:
            self._give_back(self._waiting.popleft())

    async def close(self) -> None:
        await self.pause()
        try:
            async with asyncio.timeout(self._session.timeout):
                while self._hand:
                    await asyncio.wait(self._tasks or {self._loop.create_task(asyncio.sleep(0))})
                    await asyncio.sleep(0)
                await self._session.writer.flush()
        except (NatsError, OSError, TimeoutError, BusError) as error:
            logger.warning(
                "%s on %s: what was settled last may come again, as the server did not answer: %r",
                self._spec.name,
                self._stream.name,
                error,
            )
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._pulse is not None:
            self._pulse.cancel()
        if not self._closed.done():
            self._closed.set_result(None)

    async def wait_closed(self) -> None:
        await asyncio.shield(self._closed)

    def _end(self, error: Exception) -> None:
        """End by itself: it cannot go on."""
        if not self._closed.done():
            self._closed.set_exception(error)
            self._closed.exception()  # seen, if nobody waits

    # --- pulling ------------------------------------------------------------------------------

    async def _on_up(self, fresh: bool) -> None:  # noqa: FBT001 - a listener
        await self._listen(fresh=fresh)
        self._mend()

    async def _listen(self, *, fresh: bool) -> None:
        self._pulls.clear()
        self._requested = 0
        if fresh:
            link = self._session.link
            self._inbox = link.client.new_inbox()
            self._inbox_subscription = await link.listen(f"{self._inbox}.*", self._on_message)

    def _mend(self) -> None:
        self._mending = True
        self._trouble.set()

    async def _tend(self) -> None:
        """Look after the pulls: mend what is broken, notice what is silent."""
        while True:
            try:
                async with asyncio.timeout(_PULL_HEARTBEAT):
                    await self._trouble.wait()
            except TimeoutError:
                silent = self._loop.time() - self._heard
                if self._requested and silent > _SILENCE and self._session.link.up:
                    self._mend()
                continue
            try:
                await self._mended()
            except BusError as error:
                self._end(error)
                return

    async def _mended(self) -> None:
        wait = _FIRST_WAIT
        while True:
            self._trouble.clear()
            await self._session.link.wait_up()
            try:
                await ensure_stream(self._session.api, self._stream)
                if await ensure_consumer(self._session.api, self._spec) == "made":
                    logger.error(
                        "NATS consumer %r on stream %r was gone and has been made again: all that "
                        "the stream holds is delivered to it anew",
                        self._spec.name,
                        self._stream.name,
                    )
            except BusUnavailableError as error:
                logger.debug("%s cannot pull: %s", self._spec.name, error)
            else:
                if not self._trouble.is_set():
                    break
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
        self._mending = False
        self._pulls.clear()
        self._requested = 0
        self._heard = self._loop.time()
        self._pull()

    def _pull(self) -> None:
        """Ask for as many as there is room for, if it is worth it."""
        if self._paused or self._mending or self._closed.done():
            return
        wanted = self._window - len(self._hand) - self._requested
        if wanted <= 0 or (2 * wanted < self._window and self._requested + len(self._waiting)):
            return
        self._pull_number += 1
        self._pulls[self._pull_number] = wanted
        self._requested += wanted
        if wanted > self._narrowest:
            body = b'{"batch":%d,"expires":%d}' % (wanted, _WIDE_PULL_EXPIRES * NANO)
        else:
            body = b'{"batch":%d,"expires":%d,"idle_heartbeat":%d}' % (
                wanted,
                _PULL_EXPIRES * NANO,
                _PULL_HEARTBEAT * NANO,
            )
        self._session.writer.put(Outgoing(self._next, body, f"{self._inbox}.{self._pull_number}"))

    async def _on_message(self, message: Msg) -> None:
        self._heard = self._loop.time()
        number = int(self._pull_of(message))
        headers = message.headers
        if headers is not None and "Status" in headers and not message.reply.startswith("$JS.ACK"):
            self._on_status(number, headers)
            return
        left = self._pulls.get(number)
        if left is not None:
            self._requested -= 1
            if left == 1:
                del self._pulls[number]
            else:
                self._pulls[number] = left - 1
        self._take(message)

    def _pull_of(self, message: Msg) -> str:
        # A message keeps its own subject; what it answers is the subject of the inbox, which the
        # client does not tell. The server fills the oldest pull first.
        if message.subject.startswith(self._inbox):
            return message.subject[len(self._inbox) + 1 :]
        return str(next(iter(self._pulls), 0))

    def _on_status(self, number: int, headers: dict[str, str]) -> None:
        status = headers["Status"]
        if status == "100":
            return
        self._requested -= self._pulls.pop(number, 0)
        if status in ("404", "408"):  # its time is over
            if not self._hand:
                self._window = self._narrowest
            self._pull()
        else:
            logger.debug("%s cannot pull: %s", self._spec.name, headers)
            self._mend()

    # --- a message's way ----------------------------------------------------------------------

    def _take(self, message: Msg) -> None:
        place = wire.position(message.reply)
        known = self._hand.get(place.sequence)
        if known is not None:
            known.reply = message.reply  # its lease was over before we said a word; it goes on
            return
        if message.subject not in self._wanted:
            self._session.writer.put_with_others(Outgoing(message.reply, _ACK))
            self._pull()
            return
        name = f"{self._stream.name}.{self._spec.name}.{place.sequence}-{place.stored}"
        hand = Hand(message, place, name)
        self._hand[place.sequence] = hand
        if self._paused:
            self._give_back(hand)
            return
        self._waiting.append(hand)
        self._begin()

    def _begin(self) -> None:
        while self._waiting and self._begun < self._room and not self._paused:
            hand = self._waiting.popleft()
            self._begun += 1
            if hand.place.delivered > 1:
                self._spawn(self._begin_again(hand))
            else:
                self._hand_over(hand)
        self._pull()

    async def _begin_again(self, hand: Hand) -> None:
        """Hand over what was delivered before, when it is known how often."""
        record = await self._persistently(partial(self._session.ledger.read, hand.name))
        if record is None:
            self._begun -= 1
            self._give_back(hand)
            return
        hand.written = True
        hand.attempt, hand.silent = record.attempts + 1, record.silent
        if record.silent >= self._session.deaths:
            await self._end_silent(hand, record)
            return
        if record.silent:
            await self._alone.acquire()
        begun = Record(hand.attempt, record.silent + 1)
        write = partial(self._session.ledger.write, hand.name, begun)
        if self._paused or await self._persistently(write, default=False) is not None:
            self._release_turn(record)
            self._begun -= 1
            self._give_back(hand)
            return
        self._hand_over(hand).add_done_callback(lambda _: self._release_turn(record))

    def _release_turn(self, record: Record) -> None:
        if record.silent:
            self._alone.release()

    async def _end_silent(self, hand: Hand, record: Record) -> None:
        text = (
            f"{record.silent} attempts in a row ended without a word: the process died, or was "
            f"blocked for longer than ack_wait ({self._session.ack_wait:g} s)"
        )
        delivery = self._delivery(hand)
        logger.error("%s gives up on %s: %s", delivery.consumer, delivery.id, text)
        await self._bury(hand, Reject(PROCESS_DIED, text, record.attempts))
        self._begun -= 1
        self._begin()

    async def _persistently(self, ask: Any, default: Any = None) -> Any:
        """Ask until there is an answer; return the default if it is too late for one."""
        wait = _FIRST_WAIT
        while not self._paused:
            try:
                return await ask()
            except (BusError, ApiError) as error:
                logger.debug("%s: %s", self._spec.name, error)
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
        return default

    def _delivery(self, hand: Hand) -> Delivery:
        read = wire.users(hand.headers)
        return Delivery(
            self._subscription.topic,
            self._subscription.consumer,
            wire.own_id(hand.headers, read, hand.name),
            hand.body,
            read,
            hand.attempt,
            wire.own_key(hand.headers, read),
        )

    def _hand_over(self, hand: Hand) -> asyncio.Future[Settlement]:
        future = self._deliver(self._delivery(hand))
        future.add_done_callback(partial(self._settle, hand))
        return future

    # --- settling -----------------------------------------------------------------------------

    def _settle(self, hand: Hand, future: asyncio.Future[Settlement]) -> None:
        settlement = future.result()
        self._begun -= 1
        self._settled += 1
        if isinstance(settlement, Ack):
            self._answer(hand, _ACK)
            if hand.written:
                self._spawn(self._session.ledger.forget(hand.name))
        elif isinstance(settlement, Release):
            self._give_back(hand)
        elif isinstance(settlement, Retry):
            self._spawn(self._retry(hand, settlement))
        else:
            self._spawn(self._bury(hand, settlement))
        if len(self._waiting) <= self._window // 2:
            self._adapt()
        self._begin()

    def _adapt(self) -> None:
        """Widen or narrow the window, by what was settled in a while."""
        before, since = self._settled_before
        now = self._loop.time()
        count, took = self._settled - before, now - since
        if count >= self._window and took < _SLOW:
            self._window = min(2 * self._window, max(_WIDEST, self._narrowest))
        elif took > _SLOW:
            self._window = max(self._narrowest, min(self._window, int(count * _SLOW / took)))
        else:
            return
        self._settled_before = self._settled, now

    def _answer(self, hand: Hand, word: bytes) -> None:
        if self._hand.pop(hand.place.sequence, None) is not None:
            self._session.writer.put_with_others(Outgoing(hand.reply, word))

    def _give_back(self, hand: Hand) -> None:
        if hand.place.delivered > 1 and not hand.written:
            self._answer(hand, _NAK)  # what the ledger says, or does not say, holds
            return
        self._spawn(self._return(hand, Record(hand.attempt - 1, hand.silent)))

    async def _retry(self, hand: Hand, retry: Retry) -> None:
        await self._return(hand, Record(retry.attempt, 0), retry.after)

    async def _return(self, hand: Hand, record: Record, after: float = 0.0) -> None:
        """Have it delivered again, with the right count; without one if there is no answer."""
        begun = self._loop.time()
        try:
            await self._session.ledger.write(hand.name, record)
        except BusError as error:
            logger.debug("%s: the count of attempts is not kept: %s", self._spec.name, error)
        delay = int(max(0.0, after - (self._loop.time() - begun)) * NANO)
        self._answer(hand, b'%b {"delay": %d}' % (_NAK, delay) if delay else _NAK)
        self._pull()

    async def _bury(self, hand: Hand, reject: Reject) -> None:
        delivery = self._delivery(hand)
        kind = wire.text_in(hand.headers.get(TYPE)) or type_in(self._stream.name, hand.subject)
        try:
            await self._session.graveyard.bury(delivery, hand.headers, kind, hand.name, reject)
        except BusError as error:
            if not self._unburied:
                logger.error(  # noqa: TRY400 - its cause is in its text
                    "%s cannot keep dead letters, they stay in its stream and are tried again "
                    "every %g s: %s",
                    delivery.consumer,
                    _UNBURIED,
                    error,
                )
            self._unburied = True
            await self._return(hand, Record(reject.attempts - 1, 0), _UNBURIED)
            return
        self._unburied = False
        self._answer(hand, _ACK)
        if hand.written:
            await self._session.ledger.forget(hand.name)
        self._pull()

    def _beat(self) -> None:
        """Keep the leases of all that is here."""
        self._pulse = self._loop.call_later(self._session.ack_wait / 3, self._beat)
        if self._session.link.up:
            for hand in self._hand.values():
                self._session.writer.put(Outgoing(hand.reply, _ALIVE))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s: %r", self._spec.name, error, exc_info=error)
