"""Messages on their way to the broker, until it has confirmed them.

    waiting --channel up, not blocked--> held, while its place is being declared
       ^                                   | declared
       |                                   v
       '-- channel lost, or returned -- written --confirm--> done
                                           '--nack--> refused

A message that is written and not confirmed when the channel is lost is written again on the next
one, in order and with the same id: the broker may have it twice then. Its deadline goes on all the
while. When that passes, the outcome is unknown if it was ever written, else it was not sent.

A refusal costs the channel. From then on, messages to the exchange that the broker names go apart,
one at a time, until it takes one again: what is on its way elsewhere is written again once.

That nobody follows a topic yet is not an error: such a message is confirmed, and gone. But where a
message did reach a queue, another one that reaches none is an error: a consumer is missing it.
Those that move between a consumer's queues are mandatory: they must not get lost because somebody
has deleted one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from events.errors import (
    BusError,
    BusUnavailableError,
    InvalidTopologyError,
    MessageTooLargeError,
    SendOutcomeUnknownError,
    SendRefusedError,
)
from events.integration.brokering.backoff import Backoff
from events.integration.brokering.dead_letters import RESERVED_BYTES
from events.integration.implementation.rabbitmq._apart import Apart
from events.integration.implementation.rabbitmq._channel import Channel
from events.integration.implementation.rabbitmq._connection import Connection
from events.integration.implementation.rabbitmq._driver import (
    DriverError,
    HeadersTooLongError,
    Properties,
    RefusedError,
    is_ack,
)
from events.integration.implementation.rabbitmq._outgoing import Outgoing, Route, Routes
from events.integration.implementation.rabbitmq._topology import Place, declare

__all__ = ["Publisher"]

logger = logging.getLogger("events.integration")

_NOBODY_THERE = 2.0  # seconds for a connection to come back while the bus is being stopped
_SWEEPS = 20  # looks at the deadlines, in the time of one
_REDECLARED = 3  # times that a place is made again for one message that was returned
_PAUSE = 0.2  # seconds until a channel that the broker closed is opened again
_LONGEST_PAUSE = 10.0
_BLOCKED = "it takes no messages for now: an alarm, of memory or disk"
_DECLARED_AT_ONCE = 4  # places, each on a channel of its own, of which there are not many
_NOT_FOUND = 404


class Publisher:
    """Publish on one channel, with confirms, many messages in flight, in order for each place."""

    def __init__(self, timeout: float, *, why_down: Callable[[], str | None]) -> None:
        """Begin. `why_down` tells why there is no connection."""
        self._why_down = why_down
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._tag = 0
        self._open: deque[Outgoing] = deque()  # all of them, in order of their deadlines
        self._waiting: deque[Outgoing] = deque()
        self._held: dict[Place, deque[Outgoing]] = {}
        self._unconfirmed: dict[int, Outgoing] = {}
        self._declared: set[Place] = set()
        self._declaring = asyncio.Semaphore(_DECLARED_AT_ONCE)
        self._routes = Routes()
        self._apart: dict[str, Apart] = {}  # by exchange
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False
        self._backoff = Backoff(_PAUSE, _LONGEST_PAUSE)
        self._no_channel = "it is not connected yet"  # or for this reason
        self.on_missed: Callable[[str], object] = _ignore

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

        The future ends when the broker has confirmed. It raises `BusUnavailableError` (a message
        that goes nowhere included, if it is mandatory or others of its type on its topic did
        reach a queue), `SendOutcomeUnknownError` (a refusal by one of a
        topic's queues included, as others may have taken it), `InvalidTopologyError` for a place
        that cannot be declared and a message that AMQP has no form for, `MessageTooLargeError`, or
        `SendRefusedError` for what the user of the broker must not write.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        if self._closed:
            future.set_exception(BusUnavailableError("RabbitMQ", "the bus is closed"))
            return future
        deadline = self._loop.time() + self._timeout
        out = Outgoing(exchange, key, properties, body, place, mandatory, future, deadline)
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

    @property
    def error(self) -> str | None:
        """Return why nothing can be written at this moment, if so."""
        if self._channel is None:
            return self._why_down() or self._no_channel
        if self._connection is not None and self._connection.blocked:
            return _BLOCKED
        return None

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
                    if str(error) != self._no_channel:
                        logger.warning("cannot publish to RabbitMQ, will try again: %s", error)
                    self._no_channel = str(error)
                    await self._backoff.pause()
                continue
            if connection is self._connection:
                self._channel, self._tag = channel, 0
                self._backoff.reset()
                self._flush()
            return

    def _channel_closed(self, reason: DriverError) -> None:
        connection = self._connection
        if isinstance(reason, RefusedError):
            self._refused(reason)
        self._no_channel = str(reason)
        self._channel_gone()
        if connection is None or not connection.is_open:
            return
        if isinstance(reason, RefusedError):
            logger.warning("RabbitMQ closed the channel to publish on, opening another: %s", reason)
        self._spawn(self._open_again(connection), "rabbitmq confirms")

    async def _open_again(self, connection: Connection) -> None:
        await asyncio.sleep(_PAUSE)
        await self._open_channel(connection)

    def _refused(self, reason: RefusedError) -> None:
        """See to it that what was refused does not cost the next channel, too."""
        limit = reason.size_limit
        if limit is not None:
            self._give_up_beyond(limit)
        elif reason.code != _NOT_FOUND:  # what is not there is made again
            exchanges = {out.exchange for out in self._unconfirmed.values()}
            if reason.exchange in exchanges:
                exchanges = {reason.exchange}
            for exchange in exchanges:
                self._apart.setdefault(exchange, self._new_apart())

    def _new_apart(self) -> Apart:
        return Apart(self._timeout, write=self._put, confirmed=self._confirmed_one, refused=_refuse)

    def _give_up_beyond(self, limit: int) -> None:
        """Tell of what is too large for the broker: it would cost the next channel, too."""
        for out in self._open:
            if len(out.body) > limit and not out.future.done():
                out.future.set_exception(_too_large(out, len(out.body), limit))

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
            logger.warning("RabbitMQ: %s", _BLOCKED)
        else:
            logger.warning("RabbitMQ takes messages again")
            self._flush()

    # --- the way of a message -----------------------------------------------------------------

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        for out in waiting:
            self._submit(out)

    def _submit(self, out: Outgoing) -> None:
        if self._channel is None or self._connection is None or self._connection.blocked:
            self._waiting.append(out)
        elif out.place is None or out.place in self._declared:
            self._write(self._channel, out)
        elif out.place in self._held:
            self._held[out.place].append(out)
        else:
            self._held[out.place] = deque([out])
            self._spawn(self._declare(self._connection, out.place), "rabbitmq declare")

    def _write(self, channel: Channel, out: Outgoing) -> None:
        if out.future.done():
            return
        if not channel.is_open:  # closing; it will be told to us in a moment
            self._waiting.append(out)
        elif out.exchange in self._apart:
            self._write_apart(out)
        elif self._put(channel, out):
            self._tag += 1
            self._unconfirmed[self._tag] = out

    def _put(self, channel: Channel, out: Outgoing) -> bool:
        """Write it to the channel; return whether that was possible."""
        route: Route | None = None
        if not out.mandatory:
            route = self._routes.of(out.exchange, out.key)
            if not route.works and route.is_quiet(self._loop.time()):
                route = None
        ask = out.mandatory or route is not None
        spare = 0 if out.mandatory else RESERVED_BYTES  # of which a retry needs less
        try:
            channel.publish(out.exchange, out.key, out.properties, out.body, ask, spare)
        except HeadersTooLongError as error:
            out.future.set_exception(_too_large(out, error.size, error.limit, part="headers"))
            return False
        except ValueError as error:
            subject = f"message to {out.exchange or out.key!r} with the routing key {out.key!r}"
            out.future.set_exception(
                InvalidTopologyError(subject, f"it cannot be written in AMQP: {error}")
            )
            return False
        out.route = route
        out.written = True
        return True

    def _write_apart(self, out: Outgoing) -> None:
        apart = self._apart[out.exchange]
        apart.waiting.append(out)
        if len(apart.waiting) == 1 and self._connection is not None:
            self._spawn(self._run_apart(self._connection, out.exchange, apart), "rabbitmq apart")

    async def _run_apart(self, connection: Connection, exchange: str, apart: Apart) -> None:
        try:
            if await apart.run(connection):
                self._apart.pop(exchange, None)
        except DriverError as error:
            logger.debug("messages to %r must wait for a channel: %s", exchange, error)
            await asyncio.sleep(_PAUSE)
        finally:
            again, apart.waiting = apart.waiting, deque()
            for out in again:
                if out.place is not None:
                    self._declared.discard(out.place)  # it may be that which is missing
                self._submit(out)

    async def _declare(self, connection: Connection, place: Place) -> None:
        """Declare on a channel of its own: a refusal closes it, and with it nothing else."""
        failure: BusError | None = BusUnavailableError("RabbitMQ", f"{place} was not declared")
        try:
            async with self._declaring:
                channel = await connection.channel(self._timeout)
                try:
                    await declare(channel, place)
                finally:
                    await channel.close()
            failure = None
        except BusError as error:
            failure = error
        except DriverError as error:
            failure = BusUnavailableError("RabbitMQ", f"{place}: {error}")
        finally:
            # Those that were held while the connection was lost wait for the next one.
            if connection is self._connection and connection.is_open:
                self._declared_or_not(place, failure)

    def _declared_or_not(self, place: Place, failure: BusError | None) -> None:
        held = self._held.pop(place, deque())
        if failure is None:
            self._declared.add(place)
        for out in held:
            if failure is None:
                self._submit(out)
            elif not out.future.done():
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
        for each in tags:
            out = self._unconfirmed.pop(each, None)
            if out is not None:
                self._confirmed_one(out, method)

    def _confirmed_one(self, out: Outgoing, method: Any) -> None:
        if out.future.done():
            return
        if not is_ack(method):
            out.future.set_exception(_refusal(out))
        elif out.returned:
            self._came_back(out)
        else:
            if out.route is not None and not out.route.works:
                out.route.reached()
            out.future.set_result(None)

    def _returned(self, exchange: str, key: str, properties: Properties) -> None:
        """Mark it; its confirm follows."""
        for out in self._unconfirmed.values():
            if out.is_returned_as(exchange, key, properties):
                out.returned = True
                return

    def _came_back(self, out: Outgoing) -> None:
        route = out.route
        if route is None:
            self._again(out)
            return
        is_news = route.missed(self._loop.time())
        if not route.has_worked:
            if is_news:
                _tell_that_nobody_follows(route)
            out.future.set_result(None)
            return
        reason = (
            f"{route.type} on topic {route.topic!r} reaches no queue any more: its consumers' "
            f"queues were deleted or unbound, or its exchange was. Consumers that run bind "
            f"theirs again; if there is to be none any more, restart who sends"
        )
        if is_news:
            logger.error("RabbitMQ: %s", reason)
        out.future.set_exception(BusUnavailableError("RabbitMQ", reason))
        self.on_missed(route.topic)

    def _again(self, out: Outgoing) -> None:
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

    def _expire(self, out: Outgoing) -> None:
        if out.future.done():
            return
        if out.written:
            reason = f"no confirm within {self._timeout:g} s"
            message_id = str(out.properties.message_id)
            out.future.set_exception(SendOutcomeUnknownError("RabbitMQ", message_id, reason))
            return
        if self._connection is None and self._closed:
            reason = f"not connected, and the bus is stopped: {self.error}"
        elif self._channel is None:
            reason = f"not connected for {self._timeout:g} s: {self.error}"
        elif self._connection is not None and self._connection.blocked:
            reason = f"not within {self._timeout:g} s: {_BLOCKED}"
        else:
            reason = f"no answer within {self._timeout:g} s"
        out.future.set_exception(BusUnavailableError("RabbitMQ", reason))

    def _spawn(self, work: Any, name: str) -> None:
        task: asyncio.Task[None] = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _ignore(_: str) -> None:
    pass


def _tell_that_nobody_follows(route: Route) -> None:
    logger.info(
        "%s, sent to topic %r, reached no queue, so nobody will get it: no consumer of it "
        "was started on this broker before. This is told once",
        route.type,
        route.topic,
    )


def _too_large(
    out: Outgoing, size: int, limit: int, part: Literal["body", "headers"] = "body"
) -> MessageTooLargeError:
    type_ = str(out.properties.type)
    return MessageTooLargeError(out.exchange or out.key, type_, size, limit, part)


def _refuse(out: Outgoing, error: RefusedError) -> None:
    if out.future.done():
        return
    limit = error.size_limit
    if limit is not None:
        out.future.set_exception(_too_large(out, len(out.body), limit))
    else:
        refusal = SendRefusedError("RabbitMQ", out.exchange or out.key, str(error))
        out.future.set_exception(refusal)


def _refusal(out: Outgoing) -> BusError:
    if out.mandatory:
        return BusUnavailableError("RabbitMQ", f"queue {out.key!r} refused the message: it is full")
    reason = "a queue behind the topic refused it, as a full one does; others may have it"
    return SendOutcomeUnknownError("RabbitMQ", str(out.properties.message_id), reason)
