"""The registry of a bus's consumers: those that receive, are closing, or have died.

subscribe --> receiving --close--> closing --> forgotten
                  |---- by itself ----> dead, and `watch` raises
                  '---- halt --> closing --> halted, until it is subscribed again
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable

from events.errors import ConsumerStoppedError, InvalidTopologyError
from events.integration.health import ConsumerHealth
from events.integration.observation import system_of
from events.integration.pipeline.middleware import Middlewares
from events.integration.pipeline.receiver import Receiver
from events.integration.pipeline.scheduler import DeliveryScheduler
from events.integration.pipeline.subscriber import Subscriber
from events.integration.serialization import EventDecoder
from events.integration.topology import IntegrationEventBusRegistration, RetryPolicy
from events.integration.transport import PauseStore, Subscription, Transport
from events.integration.upcasting import gaps


class ConsumerRegistry:
    """Own the subscribers of a bus, one for each consumer and topic."""

    def __init__(
        self,
        transport: Transport,
        *,
        middlewares: Middlewares,
        retry: RetryPolicy,
        max_body_size: int,
        max_crashes: int,
    ) -> None:
        self._transport = transport
        self._middlewares = middlewares
        self._retry = retry
        self._max_body_size = max_body_size
        self._max_crashes = max_crashes
        self._subscribers: dict[tuple[str, str], Subscriber] = {}
        self._changed = asyncio.Event()
        self._halted: dict[tuple[str, str], IntegrationEventBusRegistration] = {}

    async def subscribe(self, registration: IntegrationEventBusRegistration) -> None:
        """Return when the consumer receives."""
        retry = registration.retry or self._retry
        self._middlewares.check(registration, retry)
        scheduler = DeliveryScheduler(registration.concurrency, str(registration))
        receiver = Receiver(
            registration,
            scheduler,
            EventDecoder(registration.events),
            middlewares=tuple(self._middlewares),
            retry=retry,
            max_body_size=self._max_body_size,
            max_crashes=self._max_crashes,
            features=self._transport.features,
            system=system_of(self._transport),
        )
        subscribed = await self._transport.subscribe(
            subscription_of(registration), receiver.deliver
        )
        self._halted.pop(_key(registration), None)
        self._subscribers[_key(registration)] = Subscriber(
            registration,
            scheduler,
            subscribed,
            self._forget,
            gives_back=self._transport.features.durability != "nothing",
        )
        self._changed.set()

    async def declare(
        self, registration: IntegrationEventBusRegistration, store: PauseStore
    ) -> None:
        """Declare a paused consumer: the broker keeps its events, and delivers none."""
        self._middlewares.check(registration, registration.retry or self._retry)
        await store.declare(subscription_of(registration))
        self._halted[_key(registration)] = registration

    @property
    def halted(self) -> tuple[IntegrationEventBusRegistration, ...]:
        """Return the consumers that are paused, without those that are still closing."""
        return tuple(r for key, r in self._halted.items() if key not in self._subscribers)

    async def halt(self, names: Collection[str], grace: float) -> list[str]:
        """Start no more handlers of these consumers; return those that were not paused yet.

        Running handlers may outlast this call.
        """
        begun: list[Subscriber] = []
        for key, subscriber in self._subscribers.items():
            if key[0] in names and not subscriber.closing and not subscriber.ended.done():
                self._halted[key] = subscriber.registration
                subscriber.begin_close(grace)
                begun.append(subscriber)
        for subscriber in begun:
            await subscriber.wait_paused()
        return [subscriber.registration.consumer.name for subscriber in begun]

    async def close(self, registration: IntegrationEventBusRegistration, grace: float) -> None:
        """Close a registration, if it is subscribed; return when its handlers have ended."""
        self._halted.pop(_key(registration), None)
        subscriber = self._subscribers.get(_key(registration))
        if subscriber is not None:
            await subscriber.close(grace)

    async def close_all(self, grace: float) -> None:
        """Close all consumers, even if one fails, then raise the first error."""
        subscribers = tuple(self._subscribers.values())
        for subscriber in subscribers:
            subscriber.begin_close(grace)
        closing = [subscriber.wait_closed() for subscriber in subscribers]
        for error in await asyncio.gather(*closing, return_exceptions=True):
            if error is not None:
                raise error

    def hurry(self, grace: float) -> None:
        """Limit the time of the consumers that are ending."""
        for subscriber in self._subscribers.values():
            if subscriber.closing:
                subscriber.begin_close(grace)

    async def wait_until_free(self, registration: IntegrationEventBusRegistration) -> None:
        """Return when an earlier registration of this consumer and topic has ended."""
        twin = self._subscribers.get(_key(registration))
        if twin is not None and twin.closing:
            await twin.wait_closed()

    def clear(self) -> None:
        """Remove all consumers, closed or not."""
        self._subscribers.clear()
        self._halted.clear()
        self._changed.set()

    def runs(
        self,
        task: asyncio.Task[object] | None,
        only: IntegrationEventBusRegistration | None = None,
    ) -> bool:
        """Return whether the task runs a handler, of this registration if one is given."""
        return any(
            only in (None, subscriber.registration) and subscriber.scheduler.runs(task)
            for subscriber in self._subscribers.values()
        )

    def __str__(self) -> str:
        """Return the consumers and their topics, for the log."""
        names = [f"{consumer!r} on {topic!r}" for consumer, topic in self._subscribers]
        return ", ".join(names) or "no consumers"

    def health(self) -> tuple[ConsumerHealth, ...]:
        """Return the health of each consumer."""
        return tuple(subscriber.health() for subscriber in self._subscribers.values())

    async def watch(self) -> None:
        """Wait until a consumer ends by itself, and raise `ConsumerStoppedError`."""
        while True:
            self._changed = asyncio.Event()  # of this event loop
            changed = asyncio.create_task(self._changed.wait())
            try:
                ended = [s.ended for s in self._subscribers.values() if not s.closing]
                await asyncio.wait([changed, *ended], return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
            for (consumer, topic), subscriber in self._subscribers.items():
                if subscriber.ended.done() and not subscriber.closing:
                    raise ConsumerStoppedError(consumer, topic) from subscriber.ended.exception()

    def _forget(self, subscriber: Subscriber) -> None:
        key = _key(subscriber.registration)
        if self._subscribers.get(key) is subscriber:
            del self._subscribers[key]
        self._changed.set()


def check(
    registration: IntegrationEventBusRegistration,
    others: Iterable[IntegrationEventBusRegistration],
) -> None:
    """Raise `InvalidTopologyError` if the registration cannot work with the others."""
    given: object = registration
    if not isinstance(given, IntegrationEventBusRegistration):
        raise InvalidTopologyError(
            f"registration {given!r}",
            "it must be an IntegrationEventBusRegistration(consumer, topic, events)",
        )
    registration.check()
    if any(_key(other) == _key(registration) for other in others):
        raise InvalidTopologyError(
            f"registration of {registration}",
            "this consumer is registered on this topic already; list all events in one "
            "registration, use concurrency= for more at once, or give the consumer "
            "another name if both are to receive everything",
        )
    EventDecoder(registration.events)  # finds event classes that cannot be decoded
    for gap in gaps(registration.events):
        raise InvalidTopologyError(f"registration of {registration}", gap)


def subscription_of(registration: IntegrationEventBusRegistration) -> Subscription:
    """Return the subscription for the transport."""
    return Subscription(
        topic=registration.topic.name,
        consumer=registration.consumer.name,
        types=frozenset(event.type for event in registration.events),
        concurrency=registration.concurrency,
        ordered=registration.order_by is not None,
    )


def _key(registration: IntegrationEventBusRegistration) -> tuple[str, str]:
    return registration.consumer.name, registration.topic.name
