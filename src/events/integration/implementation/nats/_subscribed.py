"""One registration's consumer: messages taken, handed over, settled.

    taken --room--> handed over --settled--> done, given back, given back for later, dead letter
      |   '--delivered before: its entry is read and written first--^
      '--shutdown--> given back

A message that was delivered before and left no word may be what killed its process. Such are handed
over one at a time, so that a next death tells which of them it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from functools import partial
from typing import Any

import msgspec
from nats.errors import Error as NatsError

from events.errors import BusError
from events.integration.brokering.backoff import Backoff
from events.integration.brokering.dead_letters import TYPE
from events.integration.brokering.problems import Problems
from events.integration.implementation.nats import _wire as wire
from events.integration.implementation.nats._api import Api, ApiError
from events.integration.implementation.nats._attempts import Attempts, Record
from events.integration.implementation.nats._dead_letters import NatsDeadLetters
from events.integration.implementation.nats._denials import Denial
from events.integration.implementation.nats._driver import Incoming
from events.integration.implementation.nats._leases import Hand, Leases
from events.integration.implementation.nats._link import Link
from events.integration.implementation.nats._names import redrive_subject, type_in, type_subject
from events.integration.implementation.nats._pulls import Pulls, Window
from events.integration.implementation.nats._topology import ConsumerSpec, StreamSpec
from events.integration.implementation.nats._writer import Writer
from events.integration.message import CRASHED, Ack, Delivery, Reject, Release, Retry, Settlement
from events.integration.transport import Deliver, Subscription

__all__ = ["NatsSubscribed", "Session"]


logger = logging.getLogger("events.integration")

_AHEAD = 2  # deliveries handed over that wait for their turn there
_AT_HAND = 16  # deliveries per handler where some wait behind their key
_NOT_KEPT = 1.0  # seconds until a message is tried again that no dead letter could hold
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0
_LOOK = 0.002
_ACK = "ack"  # a problem


class Session(msgspec.Struct):
    """What all consumers of a transport share."""

    link: Link
    writer: Writer
    api: Api
    attempts: Attempts
    dead_letters: NatsDeadLetters
    timeout: float
    ack_wait: float


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
        self._name = consumer.name
        self._deliver = deliver
        self._wanted = {type_subject(stream.name, name) for name in subscription.types}
        self._wanted.add(redrive_subject(stream.name, consumer.name))
        # A few more than can run at once, so that the next begins when one ends.
        ahead = (_AT_HAND - 1) * subscription.concurrency if subscription.ordered else _AHEAD
        self._room = subscription.concurrency + ahead
        self._window = Window(self._room if subscription.ordered else subscription.concurrency)
        self._problems = Problems(f"{subscription.consumer} on topic {subscription.topic!r}")
        self._acks = f".{stream.name}.{consumer.name}.".lower()
        self._leases = Leases(
            session.link, session.writer, f"{stream.name}.{consumer.name}", session.ack_wait
        )
        self._pulls = Pulls(
            link=session.link,
            writer=session.writer,
            api=session.api,
            stream=stream,
            consumer=consumer,
            window=self._window,
            at_hand=self._leases.__len__,
            unbegun=lambda: self._waiting_bytes,
            problems=self._problems,
            take=self._take,
            anew=self._leases.forget_done,
            ended=self._end,
        )
        self._waiting: deque[Hand] = deque()
        self._waiting_bytes = 0
        self._begun = 0
        self._alone = asyncio.Lock()
        self._acks_denied: asyncio.TimerHandle | None = None
        self._paused = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._cannot_keep = False

    @property
    def last_poll(self) -> float | None:
        return self._pulls.heard

    @property
    def error(self) -> str | None:
        """What keeps it from its work at this moment."""
        return self._problems.text

    # --- starting and ending ------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to deliver; raise `InvalidTopologyError` if that cannot be."""
        await self._pulls.start()
        self._session.link.on_denied.append(self._on_denied)
        self._leases.start()
        self._spawn(self._session.attempts.sweep(self._stream.name, self._name))

    async def pause(self) -> None:
        if self._paused:
            return
        self._paused = True
        if self._acks_denied is not None:
            self._acks_denied.cancel()
        if self._on_denied in self._session.link.on_denied:
            self._session.link.on_denied.remove(self._on_denied)
        await self._pulls.stop()
        while self._waiting:
            self._give_back(self._next())

    async def close(self) -> None:
        await self.pause()
        try:
            async with asyncio.timeout(await self._session.link.patience(self._session.timeout)):
                while self._leases:  # noqa: ASYNC110 - each of them would have to tell
                    await asyncio.sleep(_LOOK)
                await self._session.writer.flush()
        except (NatsError, OSError, TimeoutError, BusError) as error:
            logger.warning(
                "%s on %s: what was settled last may come again, as the server did not answer%s",
                self._name,
                self._stream.name,
                f": {error}" if str(error) else "",
            )
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._leases.stop()
        if not self._closed.done():
            self._closed.set_result(None)

    async def wait_closed(self) -> None:
        await asyncio.shield(self._closed)

    def _end(self, error: Exception) -> None:
        """End by itself: it cannot go on."""
        if not self._closed.done():
            self._closed.set_exception(error)
            self._closed.exception()  # seen, if nobody waits

    # --- a message's way ----------------------------------------------------------------------

    def _take(self, message: Incoming) -> None:
        if message.subject not in self._wanted:
            self._leases.skip(message)
        elif (hand := self._leases.take(message)) is not None:
            if self._paused:
                self._give_back(hand)
            else:
                self._waiting.append(hand)
                self._waiting_bytes += len(hand.body)
        self._begin()

    def _next(self) -> Hand:
        hand = self._waiting.popleft()
        self._waiting_bytes -= len(hand.body)
        return hand

    def _on_denied(self, denial: Denial) -> None:
        if denial.subject.startswith("$js.ack.") and self._acks in denial.subject:
            text = denial.text.partition('"')[0].rstrip()
            reason = f'it may not acknowledge, so events come again: {text} "$JS.ACK{self._acks}>"'
            self._problems.report(_ACK, reason)
            if self._acks_denied is not None:
                self._acks_denied.cancel()
            # What was not acknowledged comes again until then, and is acknowledged again.
            self._acks_denied = asyncio.get_running_loop().call_later(
                2 * self._session.ack_wait, self._problems.clear, _ACK
            )

    def _begin(self) -> None:
        while self._waiting and self._begun < self._room and not self._paused:
            hand = self._next()
            self._begun += 1
            if hand.place.delivered > 1:
                self._spawn(self._begin_again(hand))
            else:
                self._hand_over(hand)
        self._pulls.ask()

    async def _begin_again(self, hand: Hand) -> None:
        """Hand over what was delivered before, when it is known how often."""
        read = partial(self._session.attempts.read, hand.name, hand.place.delivered)
        record = await self._persistently(read)
        if record is None:
            self._begun -= 1
            self._give_back(hand)
            return
        hand.written = True
        hand.attempt, hand.crashes = record.attempts + 1, record.crashes
        if record.crashes:
            await self._alone.acquire()
        begun = Record(record.attempts, record.crashes + 1)
        write = partial(self._session.attempts.write, hand.name, begun)
        if self._paused or await self._persistently(write, default=False) is not None:
            self._release_turn(record)
            self._begun -= 1
            self._give_back(hand)
            return
        self._hand_over(hand).add_done_callback(lambda _: self._release_turn(record))

    def _release_turn(self, record: Record) -> None:
        if record.crashes:
            self._alone.release()

    async def _persistently(self, ask: Any, default: Any = None) -> Any:
        """Ask until there is an answer; return the default if it is too late for one."""
        backoff = Backoff(_FIRST_WAIT, _LONGEST_WAIT)
        while not self._paused:
            try:
                return await ask()
            except (BusError, ApiError) as error:
                logger.debug("%s: %s", self._name, error)
            await backoff.pause()
        return default

    def _delivery(self, hand: Hand) -> Delivery:
        read = wire.users(hand.headers)
        return Delivery(
            self._subscription.topic,
            self._subscription.consumer,
            wire.id_of(hand.headers, read, hand.body, hand.name),
            hand.body,
            read,
            hand.attempt,
            wire.own_key(hand.headers, read),
            hand.crashes,
        )

    def _hand_over(self, hand: Hand) -> asyncio.Future[Settlement]:
        future = self._deliver(self._delivery(hand))
        future.add_done_callback(partial(self._settle, hand))
        return future

    # --- settling -----------------------------------------------------------------------------

    def _settle(self, hand: Hand, future: asyncio.Future[Settlement]) -> None:
        settlement = future.result()
        self._begun -= 1
        if isinstance(settlement, Ack):
            self._leases.done(hand)
            if hand.written:
                self._session.attempts.forget(hand.name)
        elif isinstance(settlement, Release):
            self._give_back(hand)
        elif isinstance(settlement, Retry):
            self._spawn(self._retry(hand, settlement))
        else:
            before = Record(settlement.attempts - 1, 0)
            if settlement.reason == CRASHED:
                before = Record(hand.attempt - 1, hand.crashes)
            self._spawn(self._keep_dead(hand, settlement, before))
        self._window.settled()
        self._begin()

    def _give_back(self, hand: Hand) -> None:
        if hand.place.delivered > 1 and not hand.written:
            self._leases.again(hand)  # what its entry says, or that there is none, holds
            return
        self._spawn(self._return(hand, Record(hand.attempt - 1, hand.crashes)))

    async def _retry(self, hand: Hand, retry: Retry) -> None:
        await self._return(hand, Record(retry.attempt, 0), retry.after)

    async def _return(self, hand: Hand, record: Record, after: float = 0.0) -> None:
        """Have it delivered again, with the right count; without one if there is no answer."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            await self._session.attempts.write(hand.name, record)
        except BusError as error:
            logger.debug("%s: the count of attempts is not kept: %s", self._name, error)
        self._leases.again(hand, after - (loop.time() - begun))
        self._pulls.ask()

    async def _keep_dead(self, hand: Hand, reject: Reject, before: Record) -> None:
        """Keep it as a dead letter; if that fails, have it come again as it was before."""
        delivery = self._delivery(hand)
        kind = wire.text_in(hand.headers.get(TYPE)) or type_in(self._stream.name, hand.subject)
        try:
            await self._session.dead_letters.keep(delivery, hand.headers, kind, hand.name, reject)
        except BusError as error:
            if not self._cannot_keep:
                logger.error(  # noqa: TRY400 - its cause is in its text
                    "%s cannot keep dead letters, they stay in its stream and are tried again "
                    "every %g s: %s",
                    delivery.consumer,
                    _NOT_KEPT,
                    error,
                )
            self._cannot_keep = True
            await self._return(hand, before, _NOT_KEPT)
            return
        self._cannot_keep = False
        self._leases.done(hand)
        if hand.written:
            self._session.attempts.forget(hand.name)
        self._pulls.ask()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s: %r", self._name, error, exc_info=error)
