"""A consumer's objects at the broker: queues, bindings, and a channel to consume on.

    attached --channel closed, consumer cancelled, connection lost--> detached --attach--> attached
        '--stop--> left alone --close--> closed       (after pauses, on the next connection)

The end. A quorum queue delivers again in the order in which it was given back, and what is on its
way to a consumer that is cancelled, the broker gives back at once, before what we hold. So a
consumer that has the queue to itself is not cancelled: what comes for it is left untouched, and the
channel's end gives everything back, in the order of the queue. Where others consume too there is no
order to keep, and they are to get at once what comes: there it is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, Protocol

from events.errors import InvalidTopologyError
from events.integration.brokering.backoff import Backoff
from events.integration.brokering.problems import Problems
from events.integration.implementation.rabbitmq._channel import Channel
from events.integration.implementation.rabbitmq._connection import Connection
from events.integration.implementation.rabbitmq._driver import (
    DriverError,
    Properties,
    RefusedError,
    SilentError,
)
from events.integration.implementation.rabbitmq._in_flight import InFlight
from events.integration.implementation.rabbitmq._topology import (
    BRIEFLY,
    Names,
    Queue,
    bind,
    counts,
    declare,
    declare_all,
    is_for_good,
)

logger = logging.getLogger("events.integration")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0  # seconds before it is attached again
_LASTS = 10.0  # seconds that it was attached; after that, a loss resets the pauses
_CONSUME, _BIND = "consume", "bind"  # what may not be possible for a while
_LOOKS, _BETWEEN_LOOKS = 50, 0.01  # whether it is gone; others that consume by now keep it there


class Receiver(Protocol):
    """The owner of an attachment."""

    def received(self, in_flight: InFlight, method: Any) -> None:
        """Take a delivery."""
        ...

    def lost(self) -> None:
        """Note that earlier deliveries can no longer be acknowledged."""
        ...

    def end(self, error: BaseException) -> None:
        """Note that attaching again cannot succeed."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Do this in a task."""
        ...


class Attachment:
    """The attachment of one consumer to one topic, over successive connections."""

    def __init__(
        self,
        receiver: Receiver,
        names: Names,
        types: Iterable[str],
        problems: Problems,
        *,
        timeout: float,
        prefetch: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._receiver = receiver
        self._names = names
        self._types = tuple(types)
        self._problems = problems
        self._timeout = timeout
        self._prefetch = prefetch
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._consumers: dict[Queue, str] = {}  # with their tags
        self._attaching: asyncio.Task[None] | None = None
        self._taking = True
        self._attached = False
        self._attached_since = 0.0
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._alone = False  # with the queue, as was seen when it stopped to take
        self._last_poll: float | None = None

    @property
    def last_poll(self) -> float | None:
        """Return when the broker was last heard of: now, if the channel is open."""
        if self._attached and self._channel is not None and self._channel.is_open:
            self._last_poll = self._loop.time()
        return self._last_poll

    @property
    def is_detached(self) -> bool:
        """Return whether it should receive but does not, as before it is attached again."""
        return self._taking and not self._attached

    async def attach(self, connection: Connection) -> None:
        """Declare what the consumer needs and start to receive on a channel of its own.

        Raises:
            InvalidTopologyError: what is needed is there and is not as it should be.
            DriverError: the channel did not come up, or a queue does not answer; nothing is left.
        """
        self._connection = connection
        channel = await connection.channel(self._timeout)
        names = self._names
        try:
            await declare_all(channel, names, self._types)
            channel.on_closed = self._channel_closed
            channel.on_cancelled(self._cancelled)
            self._channel = channel
            # Quarantine first: if that does not answer, no other consumer's events must be kept
            # meanwhile by a channel that the broker cannot end.
            await self._consume(channel, names.quarantine, quarantined=True, prefetch=1)
            await self._consume(channel, names.main, quarantined=False, prefetch=self._prefetch)
            self._attached = True
            self._attached_since = self._loop.time()
        except BaseException:
            self._detach()
            channel.on_closed = lambda _: None
            await channel.close()
            raise

    async def bind(self, channel: Channel) -> None:
        """Make the exchange and the bindings again, if it is attached.

        Raises:
            InvalidTopologyError, DriverError: as `attach`.
        """
        if not self._attached or not self._taking:
            return
        names = self._names
        try:
            await declare(channel, names.exchange)
            await bind(channel, names.main, names.exchange, self._types)
        except (InvalidTopologyError, RefusedError) as error:
            self._problems.report(_BIND, f"it may not get all that is sent: {error}")
            raise
        self._problems.clear(_BIND)

    async def _consume(
        self, channel: Channel, queue: Queue, *, quarantined: bool, prefetch: int
    ) -> None:
        received = self._receiver.received

        def receive(_: Any, method: Any, properties: Properties, body: bytes) -> None:
            if channel is self._channel:
                received(InFlight(channel, method, properties, body, quarantined), method)

        try:
            self._consumers[queue] = await channel.consume(queue.name, receive, prefetch=prefetch)
        except SilentError as error:
            cure = f"rabbitmqctl delete_queue {shlex.quote(queue.name)}"
            raise SilentError(
                f"{queue}: {error}; this is retried. If it persists, the queue has no leader, for "
                f"example because the broker was killed right after creating it: see the broker's "
                f"log, and as a last resort run `{cure}`, which recreates the queue, empty"
            ) from None

    def up(self, connection: Connection) -> None:
        """Resume on this connection."""
        self._connection = connection
        self._attach_later(at_once=True)

    def down(self) -> None:
        """Stop until there is another connection; handlers go on."""
        self._connection = None
        self._detach()

    def _detach(self) -> None:
        if self._attached:
            self._last_poll = self._loop.time()
        self._channel = None
        self._attached = False
        self._consumers.clear()
        self._receiver.lost()

    def _channel_closed(self, reason: DriverError) -> None:
        self._detach()
        if self._connection is not None and self._connection.is_open and self._taking:
            self._cannot_consume(f"RabbitMQ closed its channel: {reason}")
            self._attach_later()

    def _cancelled(self) -> None:
        """Attach again: the broker cancelled a consumer, usually because its queue was deleted."""
        channel = self._channel
        if channel is None or not self._taking:
            return
        self._cannot_consume("RabbitMQ cancelled its consumer, as when the queue is deleted")
        self._detach()
        self._receiver.spawn(channel.close(), "rabbitmq close")
        self._attach_later()

    def _cannot_consume(self, reason: str) -> None:
        self._problems.report(_CONSUME, f"it cannot be consumed: {reason}")

    def _attach_later(self, *, at_once: bool = False) -> None:
        if self._taking and (self._attaching is None or self._attaching.done()):
            if self._loop.time() - self._attached_since > _LASTS:
                self._backoff.reset()
            self._attaching = self._receiver.spawn(
                self._attach_again(at_once=at_once), f"rabbitmq {self._names.main}"
            )

    async def _attach_again(self, *, at_once: bool) -> None:
        while self._taking:
            if not at_once:
                await self._backoff.pause()
            at_once = False
            connection = self._connection
            if connection is None or not connection.is_open:
                return  # the next one brings a new attempt
            try:
                await self.attach(connection)
            except InvalidTopologyError as error:
                if is_for_good(error):
                    self._receiver.end(error)
                    return
                self._cannot_consume(str(error))
                continue
            except DriverError as error:
                if connection.is_open:
                    self._cannot_consume(str(error))
                continue
            self._problems.clear(_CONSUME)
            # Lost while it was on its way: `up` saw it under way and left it to us.
            if self._channel is not None or self._connection is None:
                return

    # --- the end ------------------------------------------------------------------------------

    async def stop(self, leave_quarantine: Callable[[Channel, str], Awaitable[None]]) -> None:
        """Receive no more; `leave_quarantine` cancels the consumer there."""
        self._taking = False
        if self._attaching is not None:
            self._attaching.cancel()
            if self._connection is not None:
                await self._connection.hear_out(self._attaching, limit=self._timeout)
        connection, channel = self._connection, self._channel
        if connection is not None and channel is not None and self._attached and self._consumers:
            consumers = dict(self._consumers)
            self._consumers.clear()
            await connection.run_out(
                self._cancel(channel, consumers, leave_quarantine), limit=self._timeout
            )

    async def _cancel(
        self,
        channel: Channel,
        consumers: Mapping[Queue, str],
        leave_quarantine: Callable[[Channel, str], Awaitable[None]],
    ) -> None:
        main, quarantine = self._names.main, self._names.quarantine
        try:
            _, consuming = await counts(channel, main.name, BRIEFLY)
            self._alone = consuming <= 1
            if not self._alone:
                await channel.call("basic_cancel", consumer_tag=consumers[main])
            await leave_quarantine(channel, consumers[quarantine])
        except DriverError as error:
            # What still comes is left untouched in any case.
            logger.debug("cannot unsubscribe from %s: %s", main, error)

    async def close(self) -> None:
        """Close the channel, whose end gives back what is not acknowledged."""
        connection, channel, self._channel = self._connection, self._channel, None
        if connection is not None and channel is not None:
            await connection.run_out(
                self._close_channel(connection, channel), limit=2 * self._timeout
            )

    async def _close_channel(self, connection: Connection, channel: Channel) -> None:
        await channel.close()
        if self._alone:
            await self._taken_back(connection)

    async def _taken_back(self, connection: Connection) -> None:
        """Return when the queue has noticed that we are gone, some time after the channel has.

        A consumer before that would get later events ahead of those that are given back.
        """
        try:
            channel = await connection.channel(self._timeout)
            for _ in range(_LOOKS):
                _, consuming = await counts(channel, self._names.main.name, BRIEFLY)
                if not consuming:
                    break
                await asyncio.sleep(_BETWEEN_LOOKS)
            await channel.close()
        except DriverError as error:
            logger.debug("%s may still have its consumer: %s", self._names.main, error)
