"""The in-memory broadcast: current subscribers get each event, and nothing is stored.

The embedded twin of Redis pub/sub. Where consumers come and go under names that never come back, as
one for each open socket, it is the one to take: a consumer that is unregistered leaves nothing
behind, while a queue of `InMemoryIntegrationEventBus` would wait for it, and grow, for good.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Unpack

from events.integration.brokering.read_ahead import READ_AHEAD
from events.integration.implementation.base import BusOptions, TransportIntegrationEventBus
from events.integration.implementation.memory._handing import (
    Listening,
    closed,
    end_now,
    end_soon,
    hand_over,
)
from events.integration.message import Delivery, Message, Settlement, current_delivery
from events.integration.topology import IntegrationEventBusRegistration
from events.integration.transport import Deliver, Subscription, TransportFeatures

logger = logging.getLogger("events.integration")

_LONGEST_HOLD = 1.0  # seconds that a send waits for who is behind


class InMemoryChannels:
    """The subscriptions of each topic. Buses that share one exchange events, as processes would."""

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

    def hold_back(self, topic: str, done: asyncio.Future[None]) -> None:
        """End a send to this topic: soon, or when those who listen have caught up."""
        crowded = (each for each in self._listeners.get(topic, ()) if each.is_crowded)
        slow = next(crowded, None)
        if slow is None or current_delivery() is not None:
            end_soon(done)
        else:
            slow.hold_back(done)

    def join(self, listener: InMemoryListener) -> None:
        """Begin to hand over what comes from now on."""
        self._listeners.setdefault(listener.topic, []).append(listener)

    def leave(self, listener: InMemoryListener) -> None:
        """Hand over nothing more."""
        listeners = self._listeners[listener.topic]
        listeners.remove(listener)
        if not listeners:
            del self._listeners[listener.topic]


class InMemoryListener(Listening[int]):
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
        self._bytes = 0  # of what it has not handled yet
        self._held_back: deque[asyncio.Future[None]] = deque()
        channels.join(self)

    @property
    def is_crowded(self) -> bool:
        """Return whether so much waits here that senders should too."""
        return self._bytes > READ_AHEAD

    def hold_back(self, done: asyncio.Future[None]) -> None:
        """End it when there is room here, or in a while: this event is in line already."""
        self._held_back.append(done)
        asyncio.get_running_loop().call_later(_LONGEST_HOLD, end_now, done)

    def take(self, message: Message) -> None:
        """Hand over one message."""
        delivery = Delivery(
            message.topic,
            self._consumer,
            message.id,
            message.body,
            message.headers,
            1,
            message.key,
        )
        # Retries were waited for in place, and what was rejected is logged: nothing is left to do.
        self._bytes += len(message.body)
        future = self._deliver(delivery)
        self._unsettled[future] = len(message.body)
        future.add_done_callback(self._settled)

    def _settled(self, future: asyncio.Future[Settlement]) -> None:
        self._bytes -= self._unsettled.pop(future)
        if not self.is_crowded:
            self._let_go()

    def _let_go(self) -> None:
        held, self._held_back = self._held_back, deque()
        for done in held:
            self._channels.hold_back(self.topic, done)  # another one may be slow as well

    async def pause(self) -> None:
        """See `Subscribed`."""
        if self._listening:
            self._listening = False
            self._channels.leave(self)
            self._let_go()


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
        logger.info("the in-memory broadcast is connected; it stores nothing for absent consumers")

    def publish(self, message: Message) -> asyncio.Future[None]:
        """Hand the message to all who listen, before this returns; then let others run.

        While one of them is far behind, it lets them run for longer, but not for a handler's send,
        which one that is behind may wait for.
        """
        if not self.connected:
            return closed(type(self).__name__)
        end = partial(self.channels.hold_back, message.topic)
        return hand_over(message, self.channels.publish, end)

    async def subscribe(self, subscription: Subscription, deliver: Deliver) -> InMemoryListener:
        """Listen from now on."""
        return InMemoryListener(self.channels, subscription, deliver)

    async def close(self) -> None:
        """Take no more messages."""
        self.connected = False


class InMemoryBroadcastIntegrationEventBus(TransportIntegrationEventBus):
    """Broadcast events within this process: in order, to current subscribers only.

    As `RedisPubSubIntegrationEventBus`, without a server: every registration gets all events,
    including registrations with the same consumer name on several buses. A failed handler is
    retried in place; after the last attempt the event is logged and dropped. If more than 8 MiB
    wait for a consumer, `send` waits, at most a second for each event; a `send` in a handler does
    not. Buses with the same `channels` exchange events. Otherwise as
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
