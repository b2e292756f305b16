"""A transport that injects faults, around another transport.

    bus --publish--> fault, fault, ... --> inner transport
    bus <--deliver-- fault, fault, ... <-- inner transport, and the settlement back through them

The first fault in the list is the one nearest to the bus.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from functools import partial

from events.errors import BusError, BusUnavailableError, UnsupportedByBusError
from events.integration.health import Backlog
from events.integration.message import Delivery, Message, Release, Settlement
from events.integration.observation import system_of
from events.integration.transport import (
    BacklogSource,
    DeadLetterStore,
    Deliver,
    Subscribed,
    Subscription,
    Transport,
    TransportFeatures,
)
from events.testing.faults import Fault


class FaultyTransport:
    """Wrap a transport and inject faults; without faults it changes nothing.

    For tests of your code when the broker fails: pass it to a `TransportIntegrationEventBus`, and
    change `faults` at any time, or lose the connection.

        >>> from dataclasses import dataclass
        >>> from events.errors import BusUnavailableError
        >>> from events.integration import IntegrationEvent, Topic
        >>> from events.integration.implementation.base import TransportIntegrationEventBus
        >>> from events.integration.implementation.memory import InMemoryTransport
        >>> from events.testing.faults import FailPublish
        >>> @dataclass
        ... class OrderPaidV1(IntegrationEvent):
        ...     type = "doctest.order.paid"
        ...     version = 1
        ...     order: int
        >>> async def main():
        ...     transport = FaultyTransport(InMemoryTransport(), FailPublish(times=1))
        ...     async with TransportIntegrationEventBus(transport) as bus:
        ...         try:
        ...             await bus.send(Topic("orders"), OrderPaidV1(7))
        ...         except BusUnavailableError:
        ...             print("not sent")
        ...         await bus.send(Topic("orders"), OrderPaidV1(7))
        ...         print("sent")
        >>> asyncio.run(main())
        not sent
        sent

    Args:
        inner: The wrapped transport; this one owns it.
        faults: The faults, the first one nearest to the bus.
        features: The declared features, instead of those of `inner`.
    """

    def __init__(
        self, inner: Transport, *faults: Fault, features: TransportFeatures | None = None
    ) -> None:
        self.inner = inner
        self.faults = list(faults)
        self.features = features or inner.features
        self._lost = False
        self._subscribed: set[_FaultySubscribed] = set()

    @property
    def system(self) -> str:
        """Return the inner transport's."""
        return system_of(self.inner)

    @property
    def connected(self) -> bool:
        """Return whether the broker is connected: never while the connection is lost."""
        return self.inner.connected and not self._lost

    @property
    def dead_letters(self) -> DeadLetterStore | None:
        """Return the inner transport's store, as the faults leave it."""
        store = self.inner.dead_letters
        if store is not None:
            for fault in reversed(self.faults):
                store = fault.on_dead_letters(store)
        return store

    async def backlog(self, consumer: str, topics: Sequence[str]) -> Backlog:
        """Return what the inner transport has yet to deliver to a consumer.

        Raises:
            UnsupportedByBusError: it cannot tell.
        """
        self._require_connection()
        if not isinstance(self.inner, BacklogSource):
            raise UnsupportedByBusError(repr(self.inner), "tell a backlog", "ask the broker")
        return await self.inner.backlog(consumer, topics)

    async def connect(self) -> None:
        """Connect the inner transport."""
        self._require_connection()
        await self.inner.connect()

    async def lose_connection(self) -> None:
        """Lose the connection.

        The broker takes back deliveries that are not settled. Handlers continue, but their
        settlements are lost. Until `restore_connection`, calls raise `BusUnavailableError`.
        """
        self._lost = True
        for subscribed in tuple(self._subscribed):
            await subscribed.sever()

    async def restore_connection(self) -> None:
        """Resume the subscriptions, and redeliver what was taken back."""
        self._lost = False
        for subscribed in tuple(self._subscribed):
            await subscribed.open()

    def publish(self, message: Message) -> Awaitable[None]:
        """Hand the message to the faults, and on to the inner transport."""
        publish = self.inner.publish
        for fault in reversed(self.faults):
            publish = partial(fault.on_publish, publish=publish)
        try:
            self._require_connection()
            return publish(message)
        except BusError as error:
            failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            return failed

    async def subscribe(self, subscription: Subscription, deliver: Deliver) -> Subscribed:
        """Subscribe the inner transport, its deliveries coming through the faults."""
        self._require_connection()
        subscribed = _FaultySubscribed(self, subscription, deliver)
        await subscribed.open()
        self._subscribed.add(subscribed)
        return subscribed

    async def close(self) -> None:
        """Close the inner transport."""
        await self.inner.close()

    def _require_connection(self) -> None:
        if self._lost:
            raise BusUnavailableError(type(self).__name__, "the connection is lost")

    def forget(self, subscribed: _FaultySubscribed) -> None:
        """Forget a closed subscription."""
        self._subscribed.discard(subscribed)


class _FaultySubscribed:
    """One subscription, which outlives the inner one that a lost connection ends."""

    def __init__(
        self, transport: FaultyTransport, subscription: Subscription, deliver: Deliver
    ) -> None:
        self._transport = transport
        self._subscription = subscription
        self._deliver = deliver
        self._inner: Subscribed | None = None
        self._unsettled: set[asyncio.Future[Settlement]] = set()
        self._resumed = asyncio.Event()
        self._paused = False

    @property
    def last_poll(self) -> float | None:
        return None if self._inner is None else self._inner.last_poll

    async def open(self) -> None:
        if self._paused or self._inner is not None:
            return
        subscribe = self._transport.inner.subscribe
        for fault in reversed(self._transport.faults):
            subscribe = partial(fault.on_subscribe, subscribe=subscribe)
        self._inner = await subscribe(self._subscription, self._receive)
        self._resumed.set()

    async def sever(self) -> None:
        inner, self._inner = self._inner, None
        self._resumed.clear()
        if inner is not None:
            await inner.pause()
            for future in tuple(self._unsettled):
                if not future.done():  # it may be settled in this very turn of the event loop
                    future.set_result(Release())
            await inner.close()

    def _receive(self, delivery: Delivery) -> asyncio.Future[Settlement]:
        faults = tuple(self._transport.faults)
        deliver = self._deliver
        for fault in reversed(faults):
            deliver = partial(fault.on_delivery, deliver=deliver)
        # Another future than the bus's, which outlives the connection that this one belongs to.
        settled: asyncio.Future[Settlement] = asyncio.get_running_loop().create_future()
        self._unsettled.add(settled)
        settled.add_done_callback(self._unsettled.discard)

        def settle(future: asyncio.Future[Settlement]) -> None:
            if settled.done():
                return
            settlement = future.result()
            for fault in faults:
                settlement = fault.on_settlement(delivery, settlement)
            settled.set_result(settlement)

        deliver(delivery).add_done_callback(settle)
        return settled

    async def pause(self) -> None:
        self._paused = True
        if self._inner is not None:
            await self._inner.pause()

    async def close(self) -> None:
        self._paused = True
        self._transport.forget(self)
        if self._inner is not None:
            await self._inner.close()
        self._resumed.set()

    async def wait_closed(self) -> None:
        while True:
            await self._resumed.wait()
            inner = self._inner
            if inner is None:
                return
            await inner.wait_closed()
            if inner is self._inner:
                return
