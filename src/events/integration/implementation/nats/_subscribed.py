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
from functools import partial
from typing import Any

import msgspec
from nats.errors import Error as NatsError

from events.errors import BusError
from events.integration.brokering.backoff import Backoff
from events.integration.brokering.dead_letters import TYPE
from events.integration.brokering.subscribed import BrokerSubscribed
from events.integration.cloudevents import describes_itself, encode_value
from events.integration.implementation.nats import _wire as wire
from events.integration.implementation.nats._api import Api, ApiError
from events.integration.implementation.nats._attempts import Attempts, Record
from events.integration.implementation.nats._dead_letters import NatsDeadLetters
from events.integration.implementation.nats._denials import Denial
from events.integration.implementation.nats._driver import Incoming
from events.integration.implementation.nats._leases import InFlight, Leases
from events.integration.implementation.nats._link import Link
from events.integration.implementation.nats._names import redrive_subject, type_in, type_subject
from events.integration.implementation.nats._pulls import Pulls, Window
from events.integration.implementation.nats._topology import ConsumerSpec, StreamSpec
from events.integration.implementation.nats._writer import Writer
from events.integration.message import CRASHED, Delivery, Reject, Retry, Settlement
from events.integration.transport import Deliver, Subscription

logger = logging.getLogger("events.integration")

_AHEAD = 2  # deliveries handed over that wait for their turn there
_PER_HANDLER = 16  # deliveries per handler where some wait behind their key
_NOT_KEPT = 1.0  # seconds until a message is tried again that no dead letter could hold
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0
_LOOK = 0.002
_ACK, _KEEP = "ack", "keep"  # problems


class Session(msgspec.Struct):
    """The state that all consumers of a transport share."""

    link: Link
    writer: Writer
    api: Api
    attempts: Attempts
    dead_letters: NatsDeadLetters
    timeout: float
    ack_wait: float


class NatsSubscribed(BrokerSubscribed[InFlight]):
    """A running consumer; see `events.integration.transport.Subscribed`."""

    def __init__(
        self,
        session: Session,
        subscription: Subscription,
        stream: StreamSpec,
        consumer: ConsumerSpec,
        deliver: Deliver,
    ) -> None:
        super().__init__(f"{subscription.consumer} on topic {subscription.topic!r}", deliver)
        self._session = session
        self._subscription = subscription
        self._stream = stream
        self._name = consumer.name
        self._wanted = {type_subject(stream.name, name) for name in subscription.types}
        self._redriven = redrive_subject(stream.name, consumer.name)
        self._wanted.add(self._redriven)
        # A few more than can run at once, so that the next begins when one ends.
        ahead = (_PER_HANDLER - 1) * subscription.concurrency if subscription.ordered else _AHEAD
        self._room = subscription.concurrency + ahead
        self._window = Window(self._room if subscription.ordered else subscription.concurrency)
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
            in_flight=self._leases.__len__,
            unbegun=lambda: self._waiting_bytes,
            problems=self._problems,
            take=self._take,
            restarted=self._leases.forget_done,
            ended=self.end,
        )
        self._waiting: deque[InFlight] = deque()
        self._waiting_bytes = 0
        self._begun = 0
        self._alone = asyncio.Lock()
        self._acks_denied: asyncio.TimerHandle | None = None

    @property
    def last_poll(self) -> float | None:
        return self._pulls.heard

    # --- starting and ending ------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to deliver; raise `InvalidTopologyError` if that cannot be."""
        await self._pulls.start()
        self._session.link.on_denied.append(self._on_denied)
        self._leases.start()
        self.spawn(self._session.attempts.sweep(self._stream.name, self._name))

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
            self.release(self._next())

    async def settle_all(self) -> None:
        try:
            async with asyncio.timeout(
                await self._session.link.time_to_wait(self._session.timeout)
            ):
                while self._leases:  # noqa: ASYNC110 - each of them would have to tell
                    await asyncio.sleep(_LOOK)
                await self._session.writer.flush()
        except (NatsError, OSError, TimeoutError, BusError) as error:
            logger.warning(
                "%s on %s: the last settled events may be redelivered: the server did not answer%s",
                self._name,
                self._stream.name,
                f": {error}" if str(error) else "",
            )

    async def leave(self) -> None:
        """See `BrokerSubscribed`. What is not settled is redelivered when its lease is over."""
        self._leases.stop()

    # --- a message's way ----------------------------------------------------------------------

    def _take(self, message: Incoming) -> None:
        if message.subject not in self._wanted:
            self._leases.skip(message)
        elif (in_flight := self._leases.take(message)) is not None:
            if self._paused:
                self.release(in_flight)
            else:
                self._waiting.append(in_flight)
                self._waiting_bytes += len(in_flight.body)
        self._begin()

    def _next(self) -> InFlight:
        in_flight = self._waiting.popleft()
        self._waiting_bytes -= len(in_flight.body)
        return in_flight

    def _on_denied(self, denial: Denial) -> None:
        if denial.subject.startswith("$js.ack.") and self._acks in denial.subject:
            text = denial.text.partition('"')[0].rstrip()
            acks = f'"$JS.ACK{self._acks}>"'
            reason = f"it may not acknowledge events, which are redelivered: {text} {acks}"
            self._problems.report(_ACK, reason)
            if self._acks_denied is not None:
                self._acks_denied.cancel()
            # What was not acknowledged is redelivered until then, and is acknowledged again.
            self._acks_denied = asyncio.get_running_loop().call_later(
                2 * self._session.ack_wait, self._problems.clear, _ACK
            )

    def _begin(self) -> None:
        while self._waiting and self._begun < self._room and not self._paused:
            in_flight = self._next()
            self._begun += 1
            if in_flight.delivered > 1:
                self.spawn(self._begin_again(in_flight))
            else:
                self.hand_over(in_flight, self._delivery(in_flight))
        self._pulls.ask()

    async def _begin_again(self, in_flight: InFlight) -> None:
        """Hand over what was delivered before, when it is known how often."""
        read = partial(self._session.attempts.read, in_flight.name, in_flight.delivered)
        record = await self._persistently(read)
        if record is None:
            self._begun -= 1
            self.release(in_flight)
            return
        in_flight.written = True
        in_flight.attempt, in_flight.crashes = record.attempts + 1, record.crashes
        if record.crashes:
            await self._alone.acquire()
        begun = Record(record.attempts, record.crashes + 1)
        write = partial(self._session.attempts.write, in_flight.name, begun)
        if self._paused or await self._persistently(write, default=False) is not None:
            self._release_turn(record)
            self._begun -= 1
            self.release(in_flight)
            return
        settled = self.hand_over(in_flight, self._delivery(in_flight))
        settled.add_done_callback(lambda _: self._release_turn(record))

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

    def _delivery(self, in_flight: InFlight) -> Delivery:
        read = wire.users(in_flight.headers)
        if "ce-type" not in read and not describes_itself(read, in_flight.body):
            read["ce-type"] = encode_value(self._type(in_flight))
        return Delivery(
            self._subscription.topic,
            self._subscription.consumer,
            wire.id_of(in_flight.headers, read, in_flight.body, in_flight.name),
            in_flight.body,
            read,
            in_flight.attempt,
            wire.own_key(in_flight.headers, read),
            in_flight.crashes,
            in_flight.subject == self._redriven,
        )

    def _type(self, in_flight: InFlight) -> str:
        """Return the type in its subject, or the one that was there before a redrive."""
        return wire.text_in(in_flight.headers.get(TYPE)) or type_in(
            self._stream.name, in_flight.subject
        )

    # --- settling -----------------------------------------------------------------------------

    def settle(self, in_flight: InFlight, settlement: Settlement) -> None:
        self._begun -= 1
        self.carry_out(in_flight, settlement)
        self._window.settled()
        self._begin()

    def ack(self, in_flight: InFlight) -> None:
        self._leases.done(in_flight)
        if in_flight.written:
            self._session.attempts.forget(in_flight.name)

    def retry(self, in_flight: InFlight, retry: Retry) -> None:
        self.spawn(self._return(in_flight, Record(retry.attempt, 0), retry.after))

    def dead_letter(self, in_flight: InFlight, reject: Reject) -> None:
        before = Record(reject.attempts - 1, 0)
        if reject.reason == CRASHED:
            before = Record(in_flight.attempt - 1, in_flight.crashes)
        self.spawn(self._keep_dead(in_flight, reject, before))

    def release(self, in_flight: InFlight) -> None:
        if in_flight.delivered > 1 and not in_flight.written:
            self._leases.again(in_flight)  # what its entry says, or that there is none, holds
            return
        self.spawn(self._return(in_flight, Record(in_flight.attempt - 1, in_flight.crashes)))

    async def _return(self, in_flight: InFlight, record: Record, after: float = 0.0) -> None:
        """Have it delivered again, with the right count; without one if there is no answer."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            await self._session.attempts.write(in_flight.name, record)
        except BusError as error:
            logger.debug("%s: the attempt was not stored: %s", self._name, error)
        self._leases.again(in_flight, after - (loop.time() - begun))
        self._pulls.ask()

    async def _keep_dead(self, in_flight: InFlight, reject: Reject, before: Record) -> None:
        """Store it as a dead letter; if that fails, redeliver it unchanged."""
        delivery = self._delivery(in_flight)
        kind = self._type(in_flight)
        try:
            await self._session.dead_letters.keep(
                delivery, in_flight.headers, kind, in_flight.name, reject
            )
        except BusError as error:
            reason = f"it cannot store dead letters; they stay in its stream meanwhile: {error}"
            self._problems.report(_KEEP, reason)
            await self._return(in_flight, before, _NOT_KEPT)
            return
        self._problems.clear(_KEEP)
        self.ack(in_flight)
        self._pulls.ask()
