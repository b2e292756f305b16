"""The in-memory broadcast: whoever listens at the moment gets the event, and nothing is kept.

The embedded twin of Redis pub/sub. Where consumers come and go under names that never come back, as
one for each open socket, it is the one to take: a consumer that is unregistered leaves nothing
behind, while a queue of `InMemoryIntegrationEventBus` would wait for it, and grow, for good.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Unpack

from events.integration.implementation.base import BusOptions, TransportIntegrationEventBus
from events.integration.implementation.memory._handing import Listening, closed, hand_over
from events.integration.message import Delivery, Message
from events.integration.topology import IntegrationEventBusRegistration
from events.integration.transport import Deliver, Subscription, TransportFeatures

__all__ = ["InMemoryBroadcastIntegrationEventBus", "InMemoryBroadcastTransport", "InMemoryChannels"]

logger = logging.getLogger("events.integration")


class InMemoryChannels:
    """Who listens to which topic. Buses that share one hear each other, as processes would."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[InMemoryListener]] = {}

    @property
    def listeners(self) -> int:
        """Return how many registrations listen."""
        return sum(map(len, self._listeners.values()))

    def publish(self, message: Message) -> None:
        """Hand the message to all who listen to its topic now."""
        for listener in tuple(self._listeners.get(message.topic, ())):
            listener.take(message)

    def join(self, listener: InMemoryListener) -> None:
        """Begin to hand over what comes from now on."""
        self._listeners.setdefault(listener.topic, []).append(listener)

    def leave(self, listener: InMemoryListener) -> None:
        """Hand over nothing more."""
        listeners = self._listeners[listener.topic]
        listeners.remove(listener)
        if not listeners:
            del self._listeners[listener.topic]


class InMemoryListener(Listening):
    """A `Subscribed`: one registration's ear on its topic."""

    def __init__(
        self, channels: InMemoryChannels, subscription: Subscription, deliver: Deliver
    ) -> None:
        super().__init__()
        self.topic = subscription.topic
        self._consumer = subscription.consumer
        self._channels = channels
        self._deliver = deliver
        self._listening = True
        channels.join(self)

    def take(self, message: Message) -> None:
        delivery = Delivery(
            message.topic,
            self._consumer,
            message.id,
            message.body,
            message.headers,
            key=message.key,
        )
        # Retries were waited for in place, and what was rejected is logged: nothing is left to do.
        future = self._deliver(delivery)
        self._unsettled.add(future)
        future.add_done_callback(self._unsettled.discard)

    async def pause(self) -> None:
        if self._listening:
            self._listening = False
            self._channels.leave(self)


class InMemoryBroadcastTransport:
    """A `Transport` to all who listen in this process."""

    system = "memory"
    features = TransportFeatures(
        durability="nothing",
        delivery="broadcast",
        before_first_start="gone",
        headers=True,
        delayed_retry=False,
        dead_letters=False,
        ordered=True,
    )
    dead_letters = None

    def __init__(self, channels: InMemoryChannels | None = None) -> None:
        self.channels = channels or InMemoryChannels()
        self.connected = False

    async def connect(self) -> None:
        """Open for messages."""
        self.connected = True
        logger.info("the in-memory broadcast is connected, it keeps nothing for who is not there")

    def publish(self, message: Message) -> asyncio.Future[None]:
        """Hand the message to all who listen, before this returns; then let others run."""
        if not self.connected:
            return closed(type(self).__name__)
        return hand_over(message, self.channels.publish)

    async def subscribe(self, subscription: Subscription, deliver: Deliver) -> InMemoryListener:
        """Listen from now on."""
        return InMemoryListener(self.channels, subscription, deliver)

    async def close(self) -> None:
        """Take no more messages."""
        self.connected = False


class InMemoryBroadcastIntegrationEventBus(TransportIntegrationEventBus):
    """Broadcast events within this process: in order, to whoever listens, and to nobody later.

    As `RedisPubSubIntegrationEventBus`, without a server: every registration gets everything, those
    of one consumer name on several buses too; a handler that fails is tried again in place; after
    the last attempt the event is logged and dropped. Nothing holds back who sends faster than a
    consumer handles. Give several buses one `channels` to have them hear each other. Otherwise as
    `TransportIntegrationEventBus`, with the options of `BusOptions`.
    """

    def __init__(
        self,
        registrations: Iterable[IntegrationEventBusRegistration] | None = None,
        *,
        channels: InMemoryChannels | None = None,
        **options: Unpack[BusOptions],
    ) -> None:
        transport = InMemoryBroadcastTransport(channels)
        super().__init__(transport, registrations, **options)
        self.channels = transport.channels
