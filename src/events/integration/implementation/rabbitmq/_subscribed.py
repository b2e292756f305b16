"""One registration's hold on its queue.

A delivery is in one of these states:

    delivered --settlement--> Ack      --> acknowledged
        |                     Retry    --> published to a delay queue, then acknowledged
        |                     Reject   --> published to the dead letters, then acknowledged
        |                     Release  --> given back, at a shutdown by the channel's end
        '--channel lost--> orphan --delivered again to us--> as before, on the new channel

What is to be published and cannot be stays unacknowledged and is tried again, after pauses. A
handler is not ended by a lost channel: when its delivery comes again to this process, while it runs
or after it, its settlement is used for that one, and it is not handled twice. It may come to
another process, though.

The end. A quorum queue delivers again in the order in which it was given back, and what is on its
way to a consumer that is cancelled, the broker gives back at once, before what we hold. So a
consumer that has the queue to itself is not cancelled: what comes for it is left untouched, and the
channel's end gives everything back, in the order of the queue. Where others consume too there is no
order to keep, and they are to get at once what comes: there it is cancelled.

What comes back too often is left to `_quarantine`, against crash loops.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from events.errors import InvalidTopologyError
from events.integration.brokering.backoff import Backoff
from events.integration.brokering.dead_letters import record_of
from events.integration.brokering.handled import Handled, identity
from events.integration.brokering.problems import Problems
from events.integration.implementation.rabbitmq import _wire as wire
from events.integration.implementation.rabbitmq._channel import Channel
from events.integration.implementation.rabbitmq._connection import Connection
from events.integration.implementation.rabbitmq._driver import (
    DriverError,
    Properties,
    RefusedError,
    SilentError,
)
from events.integration.implementation.rabbitmq._held import FIRST_PAUSE, LASTS, Held, Orphans
from events.integration.implementation.rabbitmq._moving import LONGEST_PAUSE, Moves
from events.integration.implementation.rabbitmq._publisher import Publisher
from events.integration.implementation.rabbitmq._quarantine import Quarantine
from events.integration.implementation.rabbitmq._topology import (
    Names,
    Queue,
    bind,
    count_consumers,
    declare,
    is_for_good,
)
from events.integration.message import Ack, Delivery, Reject, Retry, Settlement
from events.integration.transport import Deliver, Subscription
from events.integration.uuid7 import uuid7

__all__ = ["RabbitMQSubscribed"]

logger = logging.getLogger("events.integration")

_AT_HAND = 16  # deliveries per handler where some wait behind their key
_MOST_AT_HAND = 65_535  # AMQP has 16 bits for it
_CONSUME, _BIND = "consume", "bind"  # what may not be possible for a while
_LOOKS, _BETWEEN_LOOKS = 50, 0.01  # whether it is gone; others that consume by now keep it there


class RabbitMQSubscribed:
    """Receive from a consumer's queue on a topic, over one connection after another."""

    def __init__(
        self,
        subscription: Subscription,
        deliver: Deliver,
        names: Names,
        publisher: Publisher,
        *,
        timeout: float,
        prefetch: int | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._subscription = subscription
        self._deliver = deliver
        self._names = names
        self._publisher = publisher
        self._timeout = timeout
        at_hand = subscription.concurrency * (_AT_HAND if subscription.ordered else 2)
        self._prefetch = min(prefetch or at_hand, _MOST_AT_HAND)
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._consumers: dict[Queue, str] = {}  # with their tags
        self._attaching: asyncio.Task[None] | None = None
        self._held: set[Held] = set()
        self._orphans = Orphans()
        self._handled = Handled(self._prefetch + 1)  # one more is in quarantine
        self._moves = Moves(
            publisher, self._held, acknowledge=self._acknowledge, give_up=self._give_up
        )
        self._quarantine = Quarantine(
            names,
            self._held,
            move=self._moves.move,
            hand_over=self._hand_over,
            acknowledge=self._acknowledge,
        )
        self._taking = True
        self._attached = False
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._attached_since = 0.0
        self._problems = Problems(str(names.main))
        self._alone = False  # with the queue, as was seen when it stopped to take
        self._settled = asyncio.Event()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._last_poll: float | None = None

    @property
    def last_poll(self) -> float | None:
        """Return when the broker was last heard of: now, if the channel is open."""
        if self._attached and self._channel is not None and self._channel.is_open:
            self._last_poll = self._loop.time()
        return self._last_poll

    @property
    def is_deaf(self) -> bool:
        """Tell whether it wants to receive and does not, as before it is attached again."""
        return self._taking and not self._attached

    @property
    def error(self) -> str | None:
        """Return why it does not receive, or not all, if that is known."""
        return self._problems.text

    def __str__(self) -> str:
        return str(self._names.main)

    # --- connection and channel ---------------------------------------------------------------

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
            for place in (names.exchange, names.dead, names.main, names.quarantine):
                await declare(channel, place)
            await bind(channel, names.main, names.exchange, self._subscription.types)
            channel.on_closed = self._channel_closed
            channel.on_cancelled(self._cancelled)
            self._channel = channel
            # Quarantine first: if that does not answer, nobody else's events must be kept meanwhile
            # by a channel that the broker cannot end.
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
            await bind(channel, names.main, names.exchange, self._subscription.types)
        except (InvalidTopologyError, RefusedError) as error:
            self._problems.report(_BIND, f"it may not get all that is sent: {error}")
            raise
        self._problems.clear(_BIND)

    async def _consume(
        self, channel: Channel, queue: Queue, *, quarantined: bool, prefetch: int
    ) -> None:
        receive = self._receiver(channel, quarantined=quarantined)
        try:
            self._consumers[queue] = await channel.consume(queue.name, receive, prefetch=prefetch)
        except SilentError as error:
            cure = f"rabbitmqctl delete_queue {shlex.quote(queue.name)}"
            raise SilentError(
                f"{queue} gives {error}, which is tried again; if it goes on, the queue has no "
                f"leader, as when the broker was killed right after making it: see the broker's "
                f"log, and as a last resort run `{cure}`, after which it is made anew, empty"
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
        for held in self._held:
            self._orphans.add(held)
        self._held.clear()
        self._quarantine.forget()

    def _channel_closed(self, reason: DriverError) -> None:
        self._detach()
        if self._connection is not None and self._connection.is_open and self._taking:
            self._cannot_consume(f"RabbitMQ closed its channel: {reason}")
            self._attach_later()

    def _cancelled(self) -> None:
        """Begin anew: the broker has ended a consumer, mostly because its queue was deleted."""
        channel = self._channel
        if channel is None or not self._taking:
            return
        self._cannot_consume("RabbitMQ took it away from its consumer, as when it is deleted")
        self._detach()
        self._loop.create_task(channel.close())
        self._attach_later()

    def _cannot_consume(self, reason: str) -> None:
        self._problems.report(_CONSUME, f"it cannot be consumed: {reason}")

    def _attach_later(self, *, at_once: bool = False) -> None:
        if self._taking and (self._attaching is None or self._attaching.done()):
            if self._loop.time() - self._attached_since > LASTS:
                self._backoff.reset()
            self._attaching = self._loop.create_task(
                self._attach_again(at_once=at_once), name=f"rabbitmq {self}"
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
                    self.end(error)
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

    # --- deliveries ---------------------------------------------------------------------------

    def _receiver(
        self, channel: Channel, *, quarantined: bool
    ) -> Callable[[Any, Properties, bytes], None]:
        def receive(method: Any, properties: Properties, body: bytes) -> None:
            taking = self._taking or (quarantined and self._quarantine.is_leaving)
            if taking and channel is self._channel:
                held = Held(channel, method, properties, body, quarantined=quarantined)
                self._received(held, method)

        return receive

    def _received(self, held: Held, method: Any) -> None:
        properties = held.properties
        if not properties.message_id and wire.id_of(properties, held.body) is None:
            # Without an id, nobody could tell a redelivery from another message.
            again = wire.with_attempt(properties, 1, id=uuid7())
            self._moves.move(
                held, self._names.quarantine if held.quarantined else self._names.main, again
            )
            return
        if method.redelivered:
            orphan = self._orphans.take(held)
            if orphan is not None:
                self._adopt(orphan, held)
                return
            if identity(self._delivery(held)) in self._handled:
                self._acknowledge_again(held)
                return
            if self._quarantine.take_back(held):
                return
        if held.quarantined:
            self._quarantine.take(held)
        else:
            self._hand_over(held)

    def _delivery(self, held: Held) -> Delivery:
        properties = held.properties
        return wire.to_delivery(
            properties,
            held.body,
            topic=self._subscription.topic,
            consumer=self._subscription.consumer,
            attempt=wire.attempt_of(properties),
            crashes=held.crashes,
        )

    def _hand_over(self, held: Held) -> None:
        self._held.add(held)
        delivery = self._delivery(held)
        held.handled_as = identity(delivery)
        future = self._deliver(delivery)
        future.add_done_callback(lambda future: self._settle(held, future.result()))

    def _adopt(self, orphan: Held, held: Held) -> None:
        """Have what became of a delivery, or will, settle the one that came in its place."""
        orphan.channel, orphan.tag, orphan.quarantined = held.channel, held.tag, held.quarantined
        self._held.add(orphan)
        if orphan.settlement is not None:
            self._settle(orphan, orphan.settlement)

    def _settle(self, held: Held, settlement: Settlement) -> None:
        held.settlement = settlement
        if not isinstance(settlement, Ack):
            held.handled_as = None
        if held not in self._held:  # an orphan: it may come again, and then it is settled at once
            if isinstance(settlement, Ack):
                held.body = b""
            self._orphans.forget_old()
            return
        if isinstance(settlement, Ack):
            if held.handled_as is not None:
                self._handled.add(held.handled_as)
            self._acknowledge(held)
        elif isinstance(settlement, Retry):
            again = wire.with_attempt(held.properties, settlement.attempt + 1)
            self._moves.move(held, self._names.retry(settlement.after), again)
        elif isinstance(settlement, Reject):
            record = record_of(self._delivery(held), settlement, type=held.type)
            self._moves.move(held, self._names.dead, wire.dead(held.properties, record))
        else:
            self._release(held)

    def _acknowledge_again(self, held: Held) -> None:
        """Tell the broker once more what it did not hear, as its connection was lost meanwhile."""
        logger.info(
            "%s came again to %s, which has handled it: it is acknowledged, and not handled twice",
            wire.id_of(held.properties, held.body),
            self._names.main,
        )
        self._held.add(held)
        held.settlement = Ack()
        self._acknowledge(held)

    def _release(self, held: Held) -> None:
        if held.quarantined:
            self._quarantine.put_back(held)
            return
        if self._taking:
            held.channel.nack(held.tag)
        self._done(held)

    def _acknowledge(self, held: Held) -> None:
        if not self._quarantine.keeps(held):
            held.channel.ack(held.tag)
            self._done(held)

    def _give_up(self, held: Held) -> None:
        if held.settlement is None:  # it was not handled, nor is it
            self._orphans.forget(held)
        self._done(held)

    def _done(self, held: Held) -> None:
        self._held.discard(held)
        self._settled.set()
        self._quarantine.done(held)

    # --- the end ------------------------------------------------------------------------------

    async def pause(self) -> None:
        """See `Subscribed.pause`."""
        self._taking = False
        self._moves.stop()
        self._quarantine.stop()
        try:
            await self._stop_consuming()
        finally:
            self._quarantine.left()

    async def _stop_consuming(self) -> None:
        if self._attaching is not None:
            self._attaching.cancel()
            if self._connection is not None:
                await self._connection.hear_out(self._attaching, limit=self._timeout)
        connection, channel = self._connection, self._channel
        if connection is not None and channel is not None and self._attached and self._consumers:
            consumers = dict(self._consumers)
            self._consumers.clear()
            await connection.run_out(self._cancel(channel, consumers), limit=self._timeout)

    async def _cancel(self, channel: Channel, consumers: Mapping[Queue, str]) -> None:
        main, quarantine = self._names.main, self._names.quarantine
        try:
            self._alone = await count_consumers(channel, main) <= 1
            if not self._alone:
                await channel.call("basic_cancel", consumer_tag=consumers[main])
            await self._quarantine.leave(channel, consumers[quarantine])
        except DriverError as error:
            # What still comes is left untouched in any case.
            logger.debug("%s is left without a word: %s", main, error)

    async def close(self) -> None:
        """See `Subscribed.close`."""
        await self.pause()
        # Those whose next attempt to be moved was cancelled just now are the broker's again; for
        # the others the publisher's deadline is the limit.
        if not self._moves.abandon():
            settling = asyncio.ensure_future(self._all_settled())
            await self._publisher.hear_out(settling, limit=2 * self._timeout)
            settling.cancel()
        self._held.clear()
        self._orphans.clear()
        connection, channel, self._channel = self._connection, self._channel, None
        if connection is not None and channel is not None:
            await connection.run_out(self._leave(connection, channel), limit=2 * self._timeout)
        if not self._closed.done():
            self._closed.set_result(None)

    async def _all_settled(self) -> None:
        while self._held:
            self._settled.clear()
            await self._settled.wait()

    async def _leave(self, connection: Connection, channel: Channel) -> None:
        await channel.close()
        if self._alone:
            await self._taken_back(connection)

    async def _taken_back(self, connection: Connection) -> None:
        """Return when the queue has noticed that we are gone, some time after the channel has.

        Whoever consumed before would get what waits behind the events that are given back.
        """
        try:
            channel = await connection.channel(self._timeout)
            for _ in range(_LOOKS):
                if not await count_consumers(channel, self._names.main):
                    break
                await asyncio.sleep(_BETWEEN_LOOKS)
            await channel.close()
        except DriverError as error:
            logger.debug("%s may still have its consumer: %s", self._names.main, error)

    def on_closed(self, closed: Callable[[RabbitMQSubscribed], None]) -> None:
        """Have `closed` called when it is closed, or has ended by itself."""
        self._closed.add_done_callback(lambda _: closed(self))

    def end(self, error: Exception) -> None:
        """End by itself: it cannot go on."""
        if not self._closed.done():
            self._closed.set_exception(error)

    async def wait_closed(self) -> None:
        """See `Subscribed.wait_closed`."""
        await asyncio.shield(self._closed)
