"""Messages on their way to the broker, until it has confirmed them.

    waiting --channel up, not blocked--> held, while its place is being declared
       ^                                   | declared
       |                                   v
       '-- channel lost, or returned -- written --confirm--> done
                                           '--nack--> refused

A message that is written and not confirmed when the channel is lost is written again on the next
one, in order and with the same id: the broker may have it twice then. Its deadline goes on all the
while. When that passes, the outcome is unknown if it was ever written, else it was not sent.

That nobody follows a topic yet is not an error: such a message is confirmed, and gone. The broker
is asked to return it nevertheless, until that was told once of its type. Those that move between a
consumer's queues are mandatory: they must not get lost because somebody has deleted one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

from events.errors import (
    BusError,
    BusUnavailableError,
    InvalidTopologyError,
    MessageTooLargeError,
    SendOutcomeUnknownError,
)
from events.integration.implementation.rabbitmq._channel import Channel
from events.integration.implementation.rabbitmq._connection import Connection
from events.integration.implementation.rabbitmq._driver import (
    DriverError,
    Properties,
    RefusedError,
    is_ack,
)
from events.integration.implementation.rabbitmq._topology import Place, declare

__all__ = ["Publisher"]

logger = logging.getLogger("events.integration")

_NOBODY_THERE = 2.0  # seconds for a connection to come back while the bus is being stopped
_SWEEPS = 20  # looks at the deadlines, in the time of one
_REDECLARED = 3  # times that a place is made again for one message that was returned
_PAUSE = 0.2  # seconds until a channel that the broker closed is opened again


class _Outgoing:
    __slots__ = (
        "body", "deadline", "exchange", "future", "key", "mandatory", "place", "properties",
        "returned", "times_returned", "written",
    )  # fmt: skip

    def __init__(
        self,
        exchange: str,
        key: str,
        properties: Properties,
        body: bytes,
        place: Place | None,
        mandatory: bool,  # noqa: FBT001
        future: asyncio.Future[None],
        deadline: float,
    ) -> None:
        self.exchange = exchange
        self.key = key
        self.properties = properties
        self.body = body
        self.place = place
        self.mandatory = mandatory
        self.future = future
        self.deadline = deadline
        self.written = False
        self.returned = False
        self.times_returned = 0


class Publisher:
    """Publish on one channel, with confirms, many messages in flight, in order for each place."""

    def __init__(self, timeout: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._tag = 0
        self._open: deque[_Outgoing] = deque()  # all of them, in order of their deadlines
        self._waiting: deque[_Outgoing] = deque()
        self._held: dict[Place, deque[_Outgoing]] = {}
        self._unconfirmed: dict[int, _Outgoing] = {}
        self._declared: set[Place] = set()
        self._unheard: set[tuple[str, str]] = set()  # topic and type of what nobody follows
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    # --- what the users of it call ------------------------------------------------------------

    def publish(
        self,
        exchange: str,
        key: str,
        properties: Properties,
        body: bytes,
        *,
        place: Place | None = None,
        mandatory: bool = False,
    ) -> asyncio.Future[None]:
        """Send a message, to a place that is declared before if it is given.

        The future ends when the broker has confirmed. It raises `BusUnavailableError` (a mandatory
        message that goes nowhere included), `SendOutcomeUnknownError` (a refusal by one of a
        topic's queues included, as others may have taken it), `InvalidTopologyError` for a place
        that cannot be declared and a message that AMQP has no form for, or `MessageTooLargeError`.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        if self._closed:
            future.set_exception(BusUnavailableError("RabbitMQ", "the bus is closed"))
            return future
        deadline = self._loop.time() + self._timeout
        out = _Outgoing(exchange, key, properties, body, place, mandatory, future, deadline)
        self._open.append(out)
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._timeout / _SWEEPS, self._look_at_deadlines)
        self._submit(out)
        return future

    def forget(self, place: Place) -> None:
        """Declare this place anew before the next message to it."""
        self._declared.discard(place)

    async def drain(self) -> None:
        """Return when every message is confirmed, or its deadline has passed; see `hear_out`."""
        self._closed = True
        futures = [out.future for out in self._open]
        await self.hear_out(*futures, limit=self._timeout * (1 + 1 / _SWEEPS))
        for out in self._open:
            self._expire(out)
        self._open.clear()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    async def hear_out(self, *answers: asyncio.Future[Any], limit: float) -> None:
        """Wait until these are done, for so long at most.

        Whoever stops the bus does not wait for long without a connection, nor for a broker that has
        fallen silent: it would be in vain.
        """
        pending = {answer for answer in answers if not answer.done()}
        if self._connection is not None:
            await self._connection.hear_out(*pending, limit=limit)
        elif pending:
            await asyncio.wait(pending, timeout=min(limit, _NOBODY_THERE))

    # --- connection and channel ---------------------------------------------------------------

    def up(self, connection: Connection) -> None:
        """Go on, on this connection."""
        self._connection = connection
        connection.on_blocked = self._blocked
        self._spawn(self._open_channel(connection), "rabbitmq confirms")

    def down(self) -> None:
        """Stop, until there is another connection."""
        self._connection = None
        self._channel_gone()

    async def stop(self) -> None:
        """End what runs here."""
        for task in tuple(self._tasks):
            task.cancel()
        await self.hear_out(*self._tasks, limit=self._timeout)

    async def _open_channel(self, connection: Connection) -> None:
        while connection is self._connection:
            try:
                channel = await connection.channel(self._timeout)
                channel.on_closed = self._channel_closed
                channel.on_return(self._returned)
                await channel.confirms(self._confirmed)
            except DriverError as error:
                if connection.is_open:
                    logger.warning("cannot publish to RabbitMQ, will try again: %s", error)
                    await asyncio.sleep(_PAUSE)
                continue
            if connection is self._connection:
                self._channel, self._tag = channel, 0
                self._flush()
            return

    def _channel_closed(self, reason: DriverError) -> None:
        connection = self._connection
        limit = reason.size_limit if isinstance(reason, RefusedError) else None
        if limit is not None:
            self._give_up_beyond(limit)
        self._channel_gone()
        if connection is None or not connection.is_open:
            return
        if isinstance(reason, RefusedError):
            logger.warning("RabbitMQ closed the channel to publish on, opening another: %s", reason)
        self._spawn(self._open_again(connection), "rabbitmq confirms")

    async def _open_again(self, connection: Connection) -> None:
        await asyncio.sleep(_PAUSE)
        await self._open_channel(connection)

    def _give_up_beyond(self, limit: int) -> None:
        """Tell of what is too large for the broker: it would cost the next channel, too."""
        for out in self._open:
            size = len(out.body)
            if size > limit and not out.future.done():
                topic, type_ = out.exchange or out.key, str(out.properties.type)
                out.future.set_exception(MessageTooLargeError(topic, type_, size, limit))

    def _channel_gone(self) -> None:
        """Put all that is not confirmed back in line, in order."""
        self._channel = None
        self._declared.clear()
        again = [out for out in self._unconfirmed.values() if not out.future.done()]
        for held in self._held.values():
            again.extend(held)
        self._unconfirmed.clear()
        self._held.clear()
        self._waiting.extendleft(reversed(again))

    def _blocked(self, blocked: bool) -> None:  # noqa: FBT001 - a callback
        if blocked:
            logger.warning("RabbitMQ takes no messages for now: an alarm, of memory or disk")
        else:
            logger.warning("RabbitMQ takes messages again")
            self._flush()

    # --- the way of a message -----------------------------------------------------------------

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        for out in waiting:
            self._submit(out)

    def _submit(self, out: _Outgoing) -> None:
        if self._channel is None or self._connection is None or self._connection.blocked:
            self._waiting.append(out)
        elif out.place is None or out.place in self._declared:
            self._write(self._channel, out)
        elif out.place in self._held:
            self._held[out.place].append(out)
        else:
            self._held[out.place] = deque([out])
            self._spawn(self._declare(self._connection, out.place), "rabbitmq declare")

    def _write(self, channel: Channel, out: _Outgoing) -> None:
        if out.future.done():
            return
        if not channel.is_open:  # closing; it will be told to us in a moment
            self._waiting.append(out)
            return
        ask = out.mandatory or (out.exchange, out.key) not in self._unheard
        try:
            channel.publish(out.exchange, out.key, out.properties, out.body, ask)
        except ValueError as error:
            subject = f"message to {out.exchange or out.key!r} with the routing key {out.key!r}"
            out.future.set_exception(
                InvalidTopologyError(subject, f"it cannot be written in AMQP: {error}")
            )
            return
        out.written = True
        self._tag += 1
        self._unconfirmed[self._tag] = out

    async def _declare(self, connection: Connection, place: Place) -> None:
        """Declare on a channel of its own: a refusal closes it, and with it nothing else."""
        failure: BusError | None = None
        try:
            channel = await connection.channel(self._timeout)
            try:
                await declare(channel, place)
            finally:
                await channel.close()
        except BusError as error:
            failure = error
        except RefusedError as error:
            failure = BusUnavailableError("RabbitMQ", f"{place}: {error}")
        except DriverError as error:
            if connection.is_open and connection is self._connection:
                failure = BusUnavailableError("RabbitMQ", f"{place}: {error}")
        if connection is not self._connection:
            return  # those that were held wait for the next one
        held = self._held.pop(place, deque())
        if failure is None:
            self._declared.add(place)
            for out in held:
                self._submit(out)
            return
        for out in held:
            if not out.future.done():
                out.future.set_exception(failure)

    def _confirmed(self, method: Any) -> None:
        tag: int = method.delivery_tag
        if method.multiple:
            tags: list[int] = []
            for each in self._unconfirmed:
                if each > tag:
                    break
                tags.append(each)
        else:
            tags = [tag]
        taken = is_ack(method)
        for each in tags:
            out = self._unconfirmed.pop(each, None)
            if out is None or out.future.done():
                continue
            if not taken:
                out.future.set_exception(_refusal(out))
            elif out.returned:
                self._again(out)
            else:
                out.future.set_result(None)

    def _returned(self, exchange: str, key: str, properties: Properties) -> None:
        """Mark it; its confirm follows."""
        if exchange:
            self._tell_that_nobody_follows(exchange, key)
            return
        for out in self._unconfirmed.values():
            if (
                out.mandatory
                and not out.returned
                and out.key == key
                and out.properties.message_id == properties.message_id
            ):
                out.returned = True
                return

    def _tell_that_nobody_follows(self, topic: str, type_: str) -> None:
        if (topic, type_) not in self._unheard:
            self._unheard.add((topic, type_))
            logger.info(
                "%s, sent to topic %r, reached no queue, so nobody will get it: no consumer of it "
                "was started on this broker before. This is told once",
                type_,
                topic,
            )

    def _again(self, out: _Outgoing) -> None:
        """Make the queue that was not there, and send the message once more."""
        out.times_returned += 1
        if out.place is None or out.times_returned > _REDECLARED:
            reason = f"there is no queue {out.key!r}; the consumer makes it when it starts"
            out.future.set_exception(BusUnavailableError("RabbitMQ", reason))
            return
        logger.warning("%s was not there, making it again", out.place)
        out.returned = False
        self._declared.discard(out.place)
        self._submit(out)

    # --- deadlines ----------------------------------------------------------------------------

    def _look_at_deadlines(self) -> None:
        now = self._loop.time()
        while self._open and (self._open[0].future.done() or self._open[0].deadline <= now):
            self._expire(self._open.popleft())
        self._sweep = None
        if self._open:
            self._sweep = self._loop.call_later(self._timeout / _SWEEPS, self._look_at_deadlines)

    def _expire(self, out: _Outgoing) -> None:
        if out.future.done():
            return
        if out.written:
            reason = f"no confirm within {self._timeout:g} s"
            message_id = str(out.properties.message_id)
            out.future.set_exception(SendOutcomeUnknownError("RabbitMQ", message_id, reason))
            return
        if self._connection is None and self._closed:
            reason = "not connected, and the bus is stopped"
        elif self._connection is None:
            reason = f"not connected for {self._timeout:g} s"
        elif self._connection.blocked:
            reason = f"it took no messages for {self._timeout:g} s: an alarm, of memory or disk"
        else:
            reason = f"no answer within {self._timeout:g} s"
        out.future.set_exception(BusUnavailableError("RabbitMQ", reason))

    def _spawn(self, work: Any, name: str) -> None:
        task: asyncio.Task[None] = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _refusal(out: _Outgoing) -> BusError:
    if out.mandatory:
        return BusUnavailableError("RabbitMQ", f"queue {out.key!r} refused the message: it is full")
    reason = "a queue behind the topic refused it, as a full one does; others may have it"
    return SendOutcomeUnknownError("RabbitMQ", str(out.properties.message_id), reason)
