"""One registration's hold on its queue.

A delivery is in one of these states:

    delivered --settlement--> Ack      --> acknowledged
        |                     Retry    --> published to a delay queue, then acknowledged
        |                     Reject   --> published to the dead letters, then acknowledged
        |                     Release  --> given back, at a shutdown by the channel's end
        '--channel lost--> orphan --delivered again to us--> as before, on the new channel

What is to be published and cannot be stays unacknowledged and is tried again, after pauses. A
handler is not ended by a lost channel: when its delivery is redelivered to this process meanwhile
or after it, its settlement is used for that one, and it is not handled twice. It may come to
another process, though.

What comes back too often is left to `_quarantine`, against crash loops.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from events.integration.brokering.dead_letters import record_of
from events.integration.brokering.handled import Handled, identity
from events.integration.brokering.subscribed import BrokerSubscribed
from events.integration.implementation.rabbitmq import _wire as wire
from events.integration.implementation.rabbitmq._attachment import Attachment
from events.integration.implementation.rabbitmq._driver import new_properties
from events.integration.implementation.rabbitmq._in_flight import InFlight, Orphans
from events.integration.implementation.rabbitmq._moving import Moves
from events.integration.implementation.rabbitmq._publisher import Publisher
from events.integration.implementation.rabbitmq._quarantine import Quarantine
from events.integration.implementation.rabbitmq._topology import Names
from events.integration.message import Ack, Delivery, Reject, Retry, Settlement
from events.integration.transport import Deliver, Subscription
from events.integration.uuid7 import uuid7

logger = logging.getLogger("events.integration")

_PER_HANDLER = 16  # deliveries per handler where some wait behind their key
_MOST_IN_FLIGHT = 65_535  # AMQP has 16 bits for it


class RabbitMQSubscribed(BrokerSubscribed[InFlight]):
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
        super().__init__(str(names.main), deliver)
        self._loop = asyncio.get_running_loop()
        self._subscription = subscription
        self._names = names
        self._publisher = publisher
        self._timeout = timeout
        limit = subscription.concurrency * (_PER_HANDLER if subscription.ordered else 2)
        limit = min(prefetch or limit, _MOST_IN_FLIGHT)
        self.attachment = Attachment(
            self, names, subscription.types, self._problems, timeout=timeout, prefetch=limit
        )
        self._in_flight: set[InFlight] = set()
        self._orphans = Orphans()
        self._handled = Handled(limit + 1)  # one more is in quarantine
        self._moves = Moves(
            publisher, self._in_flight, acknowledge=self._acknowledge, give_up=self._give_up
        )
        self._quarantine = Quarantine(
            names,
            self._in_flight,
            move=self._moves.move,
            hand_over=self._hand_over,
            acknowledge=self._acknowledge,
        )
        self._all_done = asyncio.Event()

    @property
    def last_poll(self) -> float | None:
        """Return when the broker was last heard of: now, if the channel is open."""
        return self.attachment.last_poll

    def lost(self) -> None:
        """See `Receiver`. Handlers go on, and their deliveries may be redelivered."""
        for in_flight in self._in_flight:
            self._orphans.add(in_flight)
        self._in_flight.clear()
        self._quarantine.forget()

    # --- deliveries ---------------------------------------------------------------------------

    def received(self, in_flight: InFlight, method: Any) -> None:
        if self._paused and not (in_flight.quarantined and self._quarantine.is_leaving):
            return  # left untouched: see `_attachment`
        properties, types = in_flight.properties, self._subscription.types
        if properties.type not in types and method.routing_key in types:
            # What the queue is bound by. Its other queues are reached by their names, so it is kept
            # with the message, and read if nothing else tells the type.
            properties.type = method.routing_key
        if not properties.message_id and wire.id_of(properties, in_flight.body) is None:
            # Without an id, a redelivery looks like another message.
            again = wire.with_attempt(properties, 1, id=uuid7())
            self._moves.move(
                in_flight,
                self._names.quarantine if in_flight.quarantined else self._names.main,
                again,
            )
            return
        if method.redelivered:
            orphan = self._orphans.take(in_flight)
            if orphan is not None:
                self._adopt(orphan, in_flight)
                return
            if identity(self._delivery(in_flight)) in self._handled:
                self._acknowledge_again(in_flight)
                return
            if self._quarantine.take_back(in_flight):
                return
        if in_flight.quarantined:
            self._quarantine.take(in_flight)
        else:
            self._hand_over(in_flight)

    def _delivery(self, in_flight: InFlight) -> Delivery:
        properties = in_flight.properties
        return wire.to_delivery(
            properties,
            in_flight.body,
            topic=self._subscription.topic,
            consumer=self._subscription.consumer,
            attempt=wire.attempt_of(properties),
            crashes=in_flight.crashes,
        )

    def _hand_over(self, in_flight: InFlight) -> None:
        self._in_flight.add(in_flight)
        delivery = self._delivery(in_flight)
        in_flight.handled_as = identity(delivery)
        self.hand_over(in_flight, delivery)

    def _adopt(self, orphan: InFlight, in_flight: InFlight) -> None:
        """Have the outcome of a delivery, present or future, settle the one that replaced it."""
        orphan.channel, orphan.tag, orphan.quarantined = (
            in_flight.channel,
            in_flight.tag,
            in_flight.quarantined,
        )
        self._in_flight.add(orphan)
        if orphan.settlement is not None:
            self.settle(orphan, orphan.settlement)

    def settle(self, in_flight: InFlight, settlement: Settlement) -> None:
        """See `BrokerSubscribed`. An orphan may be redelivered, and then it is settled at once."""
        in_flight.settlement = settlement
        if not isinstance(settlement, Ack):
            in_flight.handled_as = None
        if in_flight in self._in_flight:
            self.carry_out(in_flight, settlement)
            return
        if isinstance(settlement, Ack):
            in_flight.body = b""
        self._orphans.forget_old()

    def ack(self, in_flight: InFlight) -> None:
        if in_flight.handled_as is not None:
            self._handled.add(in_flight.handled_as)
        headers = in_flight.properties.headers
        if headers and wire.RECEIPT in headers:
            self._give_receipt(headers[wire.RECEIPT])
        self._acknowledge(in_flight)

    def _give_receipt(self, queue: object) -> None:
        """Report the outcome of a canary to a redrive that still waits for it."""
        sent = self._publisher.publish("", str(queue), new_properties(), b"", mandatory=True)
        sent.add_done_callback(lambda sent: sent.cancelled() or sent.exception())

    def retry(self, in_flight: InFlight, retry: Retry) -> None:
        again = wire.with_attempt(in_flight.properties, retry.attempt + 1)
        self._moves.move(in_flight, self._names.retry(retry.after), again)

    def dead_letter(self, in_flight: InFlight, reject: Reject) -> None:
        record = record_of(self._delivery(in_flight), reject, type=in_flight.properties.type or "")
        self._moves.move(in_flight, self._names.dead, wire.dead(in_flight.properties, record))

    def release(self, in_flight: InFlight) -> None:
        if in_flight.quarantined:
            self._quarantine.put_back(in_flight)
            return
        if not self._paused:
            in_flight.channel.nack(in_flight.tag)
        self._done(in_flight)

    def _acknowledge_again(self, in_flight: InFlight) -> None:
        """Settle again at the broker, because the connection was lost before the settlement."""
        logger.info(
            "%s was redelivered to %s, which has handled it: acknowledged without handling it",
            wire.id_of(in_flight.properties, in_flight.body),
            self._names.main,
        )
        self._in_flight.add(in_flight)
        in_flight.settlement = Ack()
        self._acknowledge(in_flight)

    def _acknowledge(self, in_flight: InFlight) -> None:
        if in_flight.quarantined and self._quarantine.keeps(in_flight):
            return
        if in_flight.channel.ack(in_flight.tag):
            self._done(in_flight)
        else:
            in_flight.channel.when_written(self._done, in_flight)

    def _give_up(self, in_flight: InFlight) -> None:
        if in_flight.settlement is None:  # it was not handled, nor is it
            self._orphans.forget(in_flight)
        self._done(in_flight)

    def _done(self, in_flight: InFlight) -> None:
        self._in_flight.discard(in_flight)
        if not self._in_flight:
            self._all_done.set()
        self._quarantine.done(in_flight)

    # --- the end ------------------------------------------------------------------------------

    async def pause(self) -> None:
        """See `Subscribed.pause`."""
        self._paused = True
        self._moves.stop()
        self._quarantine.stop()
        try:
            await self.attachment.stop(self._quarantine.leave)
        finally:
            self._quarantine.left()

    async def settle_all(self) -> None:
        # Those whose next attempt to be moved was cancelled just now are the broker's again; for
        # the others the publisher's deadline is the limit.
        if not self._moves.abandon():
            settling = asyncio.ensure_future(self._all_settled())
            await self._publisher.hear_out(settling, limit=2 * self._timeout)
            settling.cancel()

    async def leave(self) -> None:
        """See `BrokerSubscribed`. The end of the channel gives back what is still in flight."""
        self._in_flight.clear()
        self._orphans.clear()
        await self.attachment.close()

    async def _all_settled(self) -> None:
        while self._in_flight:
            self._all_done.clear()
            await self._all_done.wait()
