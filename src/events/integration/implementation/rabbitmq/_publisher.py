"""Messages on their way to the broker, until it has confirmed them.

`Sends` has their table; a place is an exchange or a queue. A message that is written and not
confirmed when the channel is lost is written again on the next one.

A refusal costs the channel. From then on, messages to the exchange that the broker names go apart,
one at a time, until it takes one again: what is on its way elsewhere is written again once.

A topic without consumers is not an error: such a message is confirmed, and gone. But where a
message did reach a queue, another one that reaches none is an error: a consumer is missing it.
Those that move between a consumer's queues are mandatory: they must not get lost because somebody
has deleted one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, cast

from events.errors import (
    BusUnavailableError,
    InvalidTopologyError,
    SendRefusedError,
)
from events.integration.brokering.backoff import Backoff
from events.integration.brokering.dead_letters import RESERVED_BYTES
from events.integration.brokering.sends import NotMadeYetError, Sends
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
from events.integration.implementation.rabbitmq._outgoing import Outgoing, Routes
from events.integration.implementation.rabbitmq._topology import Place, declare

logger = logging.getLogger("events.integration")

_NOBODY_THERE = 2.0  # seconds for a connection to come back while the bus is being stopped
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
        self._sends: Sends[Outgoing] = Sends(self, "RabbitMQ", timeout)
        self._unconfirmed: dict[int, Outgoing] = {}
        self._declaring = asyncio.Semaphore(_DECLARED_AT_ONCE)
        self._routes = Routes()
        self._apart: dict[str, Apart] = {}  # by exchange
        self._tasks: set[asyncio.Task[None]] = set()
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
        return self._sends.add(Outgoing(exchange, key, properties, body, place, mandatory, future))

    def forget(self, place: Place) -> None:
        """Declare this place again before the next message to it."""
        self._sends.forget(place)

    async def drain(self) -> None:
        """Return when every message is confirmed, or its deadline has passed; see `hear_out`."""
        self._closed = True
        idle = asyncio.ensure_future(self._sends.wait_idle())
        await self.hear_out(idle, limit=self._timeout)
        idle.cancel()
        self._sends.close()

    async def hear_out(self, *answers: asyncio.Future[Any], limit: float) -> None:
        """Wait until these are done, for so long at most.

        A shutdown does not wait for long without a connection, nor for a broker that does not
        answer: that cannot help.
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
                if not connection.is_open:
                    return  # the next one brings a new attempt
                if str(error) != self._no_channel:
                    logger.warning("cannot publish to RabbitMQ, will try again: %s", error)
                self._no_channel = str(error)
                await self._backoff.pause()
                continue
            if connection is self._connection:
                self._channel, self._tag = channel, 0
                self._backoff.reset()
                if not connection.blocked:
                    self._sends.up()
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
            logger.warning("RabbitMQ closed the publishing channel, opening another: %s", reason)
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
        return Apart(
            self._timeout, write=self._put, confirmed=self._confirmed_one, refused=self._refuse
        )

    def _refuse(self, out: Outgoing, error: RefusedError) -> None:
        if error.size_limit is not None:
            self._sends.refused(out, out.too_large(len(out.body), error.size_limit))
        else:
            refusal = SendRefusedError("RabbitMQ", out.exchange or out.key, str(error))
            self._sends.refused(out, refusal)

    def _give_up_beyond(self, limit: int) -> None:
        """Fail messages that are too large for the broker and would close the next channel too."""
        for out in tuple(self._sends):
            if len(out.body) > limit:
                self._sends.refused(out, out.too_large(len(out.body), limit))

    def _channel_gone(self) -> None:
        """Put all that is not confirmed back in line, in order."""
        self._channel = None
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        self._sends.down(unconfirmed.values())

    def _blocked(self, blocked: bool) -> None:  # noqa: FBT001 - a callback
        if blocked:
            logger.warning("RabbitMQ: %s", _BLOCKED)
            self._sends.hold()
        else:
            logger.warning("RabbitMQ accepts messages again")
            if self._channel is not None:
                self._sends.up()

    # --- for the table of sends ---------------------------------------------------------------

    def why_not(self) -> str | None:
        return self.error

    def write(self, send: Outgoing) -> None:
        channel = self._channel
        if send.future.done():
            self._sends.drop(send)
        elif channel is None or not channel.is_open:  # closing; it will say so in a moment
            self._sends.wait(send)
        elif send.exchange in self._apart:
            self._write_apart(send)
        elif self._put(channel, send):
            self._tag += 1
            self._unconfirmed[self._tag] = send

    async def make(self, place: Hashable) -> None:
        """See `SendPort`. A channel of its own: a refusal closes it, and with it nothing else."""
        connection = self._connection
        if connection is None:
            raise NotMadeYetError("not connected")
        try:
            async with self._declaring:
                channel = await connection.channel(self._timeout)
                try:
                    await declare(channel, cast("Place", place))
                finally:
                    await channel.close()
        except DriverError as error:
            if not connection.is_open:
                raise NotMadeYetError(str(error)) from error
            raise BusUnavailableError("RabbitMQ", f"{place}: {error}") from error

    # --- the way of a message -----------------------------------------------------------------

    def _put(self, channel: Channel, out: Outgoing) -> bool:
        """Write it to the channel; return whether that was possible."""
        route = None
        if not out.mandatory:
            route = self._routes.of(out.exchange, out.key)
            if not route.works and route.is_quiet(self._loop.time()):
                route = None
        ask = out.mandatory or route is not None
        spare = 0 if out.mandatory else RESERVED_BYTES  # of which a retry needs less
        try:
            channel.publish(out.exchange, out.key, out.properties, out.body, ask, spare)
        except HeadersTooLongError as error:
            self._sends.refused(out, out.too_large(error.size, error.limit, part="headers"))
            return False
        except ValueError as error:
            subject = f"message to {out.exchange or out.key!r} with the routing key {out.key!r}"
            self._sends.refused(
                out, InvalidTopologyError(subject, f"it cannot be written in AMQP: {error}")
            )
            return False
        out.route = route
        out.may_be_there = True
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
                    self._sends.forget(out.place)  # it may be that which is missing
                self._sends.submit(out)

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
        if not is_ack(method):
            self._sends.refused(out, out.nacked())
        elif out.returned:
            self._came_back(out)
        else:
            if out.route is not None and not out.route.works:
                out.route.reached()
            self._sends.taken(out)

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
        reason = route.missed(self._loop.time())
        if reason is None:
            self._sends.taken(out)
        else:
            self._sends.refused(out, BusUnavailableError("RabbitMQ", reason))
            self.on_missed(route.topic)

    def _again(self, out: Outgoing) -> None:
        """Declare the queue that was missing, and send the message again."""
        out.times_returned += 1
        if out.place is None or out.times_returned > _REDECLARED:
            reason = f"queue {out.key!r} does not exist; the consumer creates it when it starts"
            self._sends.refused(out, BusUnavailableError("RabbitMQ", reason))
            return
        logger.warning("%s was missing, declaring it again", out.place)
        out.returned = False
        self._sends.forget(out.place)
        self._sends.submit(out)

    def _spawn(self, work: Any, name: str) -> None:
        task: asyncio.Task[None] = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _ignore(_: str) -> None:
    pass
