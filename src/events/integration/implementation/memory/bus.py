"""The in-memory bus: the embedded default, and a full citizen.

Buses that share an `InMemoryBroker` behave as processes that share a real one do. All is gone with
the process; for more, put the outbox before it or a durable bus in its place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence
from typing import Unpack

from events.integration.brokering.read_ahead import READ_AHEAD
from events.integration.health import Backlog
from events.integration.implementation.base import BusOptions, TransportIntegrationEventBus
from events.integration.implementation.memory._handing import Listening, closed, hand_over
from events.integration.implementation.memory.broker import Entry, InMemoryBroker, Queue
from events.integration.message import Delivery, Message, Settlement
from events.integration.topology import IntegrationEventBusRegistration
from events.integration.transport import Deliver, Subscription, TransportFeatures

logger = logging.getLogger("events.integration")

_PER_HANDLER = 16  # deliveries per handler where some wait behind their key


class InMemorySubscribed(Listening[Entry]):
    """One registration's hold on its queue."""

    def __init__(self, queue: Queue, subscription: Subscription, deliver: Deliver) -> None:
        super().__init__()
        self._queue = queue
        self._deliver = deliver
        self._bytes = 0  # of what is in flight
        self._concurrency = subscription.concurrency
        self._room = subscription.concurrency * (_PER_HANDLER if subscription.ordered else 1)
        self._taking = True
        queue.join(self)

    @property
    def has_room(self) -> bool:
        """Return whether it takes more."""
        in_flight = len(self._unsettled)
        return in_flight < self._room and (
            self._bytes < READ_AHEAD or in_flight < self._concurrency
        )

    def take(self, entry: Entry) -> None:
        """Hand over one entry."""
        message = entry.message
        delivery = Delivery(
            message.topic,
            self._queue.consumer,
            message.id,
            message.body,
            message.headers,
            entry.attempt,
            message.key,
            0,
            entry.redriven,
        )
        self._bytes += len(message.body)
        future = self._deliver(delivery)
        self._unsettled[future] = entry
        future.add_done_callback(self._settled)

    def _settled(self, future: asyncio.Future[Settlement]) -> None:
        entry = self._unsettled.pop(future)
        self._bytes -= len(entry.message.body)
        self._queue.settle(entry, future.result())
        self._queue.freed(self)

    async def pause(self) -> None:
        """See `Subscribed`."""
        if self._taking:
            self._taking = False
            self._queue.leave(self)


class InMemoryTransport:
    """A `Transport` to a broker in this process."""

    system = "memory"
    features = TransportFeatures(
        durability="nothing",
        delivery="group",
        before_first_start="gone",
        headers=True,
        delayed_retry=True,
        dead_letters=True,
        ordered=True,
    )

    def __init__(self, broker: InMemoryBroker | None = None) -> None:
        self.broker = broker or InMemoryBroker()
        self.connected = False

    @property
    def dead_letters(self) -> InMemoryBroker:
        """Return the broker, which keeps the dead letters itself."""
        return self.broker

    async def connect(self) -> None:
        """Open for messages."""
        self.connected = True
        logger.info("the in-memory bus is connected, nothing it carries outlives the process")

    def publish(self, message: Message) -> asyncio.Future[None]:
        """Put the message into the queues. It is there when this returns.

        The awaitable lets others run all the same: who sends in a loop must not starve those who
        are to receive it.
        """
        if not self.connected:
            return closed(type(self).__name__)
        return hand_over(message, self.broker.publish)

    async def backlog(self, consumer: str, topics: Sequence[str]) -> Backlog:
        """See `BacklogSource`."""
        return self.broker.backlog(consumer, topics)

    async def paused(self, consumers: Collection[str]) -> frozenset[str]:
        """See `PauseStore`."""
        return frozenset(self.broker.paused.intersection(consumers))

    async def set_paused(self, consumer: str, *, paused: bool) -> bool:
        """See `PauseStore`."""
        changed = paused != (consumer in self.broker.paused)
        if paused:
            self.broker.paused.add(consumer)
        else:
            self.broker.paused.discard(consumer)
        return changed

    async def declare(self, subscription: Subscription) -> None:
        """See `PauseStore`."""
        self.broker.queue(subscription.topic, subscription.consumer)

    async def subscribe(self, subscription: Subscription, deliver: Deliver) -> InMemorySubscribed:
        """Make the consumer's queue if need be and start to deliver from it."""
        queue = self.broker.queue(subscription.topic, subscription.consumer)
        return InMemorySubscribed(queue, subscription, deliver)

    async def close(self) -> None:
        """Take no more messages; those in the queues stay."""
        self.connected = False


class InMemoryIntegrationEventBus(TransportIntegrationEventBus):
    """Carry events within this process, with the retries, dead letters and order of a durable bus.

    Buses with the same `broker` share queues. Otherwise as `TransportIntegrationEventBus`, with the
    options of `BusOptions`.
    """

    def __init__(
        self,
        registrations: Iterable[IntegrationEventBusRegistration] | None = None,
        *,
        broker: InMemoryBroker | None = None,
        **options: Unpack[BusOptions],
    ) -> None:
        transport = InMemoryTransport(broker)
        super().__init__(transport, registrations, **options)
        self.broker = transport.broker
