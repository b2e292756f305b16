"""The registry of one bus's consumers: which receive, which are closing, which have died.

subscribe --> receiving --close--> closing --> forgotten
                  '---- by itself ----> dead, and `watch` raises
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from events.errors import ConsumerStoppedError, InvalidTopologyError
from events.integration.health import ConsumerHealth
from events.integration.observation import system_of
from events.integration.pipeline.middleware import Middlewares
from events.integration.pipeline.receiver import Receiver
from events.integration.pipeline.scheduler import DeliveryScheduler
from events.integration.pipeline.subscriber import Subscriber
from events.integration.serialization import EventDecoder
from events.integration.topology import IntegrationEventBusRegistration, RetryPolicy
from events.integration.transport import Subscription, Transport
from events.integration.upcasting import gaps

__all__ = ["ConsumerRegistry", "check"]


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
        subscription = Subscription(
            topic=registration.topic.name,
            consumer=registration.consumer.name,
            types=frozenset(event.type for event in registration.events),
            concurrency=registration.concurrency,
            ordered=registration.order_by is not None,
        )
        subscribed = await self._transport.subscribe(subscription, receiver.deliver)
        self._subscribers[_key(registration)] = Subscriber(
            registration,
            scheduler,
            subscribed,
            self._forget,
            gives_back=self._transport.features.durability != "nothing",
        )
        self._changed.set()

    async def close(self, registration: IntegrationEventBusRegistration, grace: float) -> None:
        """Return when the registration's handlers have ended, if it is subscribed."""
        subscriber = self._subscribers.get(_key(registration))
        if subscriber is not None:
            await subscriber.close(grace)

    async def close_all(self, grace: float) -> None:
        """Close them all, one that fails too, then raise the first error."""
        subscribers = tuple(self._subscribers.values())
        for subscriber in subscribers:
            subscriber.begin_close(grace)
        closing = [subscriber.wait_closed() for subscriber in subscribers]
        for error in await asyncio.gather(*closing, return_exceptions=True):
            if error is not None:
                raise error

    def hurry(self, grace: float) -> None:
        """Give those that are ending no more than this."""
        for subscriber in self._subscribers.values():
            if subscriber.closing:
                subscriber.begin_close(grace)

    async def wait_until_free(self, registration: IntegrationEventBusRegistration) -> None:
        """Return when a former registration of this consumer and topic is not ending any more."""
        twin = self._subscribers.get(_key(registration))
        if twin is not None and twin.closing:
            await twin.wait_closed()

    def clear(self) -> None:
        """Forget them all, closed or not."""
        self._subscribers.clear()
        self._changed.set()

    def runs(
        self,
        task: asyncio.Task[object] | None,
        only: IntegrationEventBusRegistration | None = None,
    ) -> bool:
        """Tell whether the task is a handler's, of this registration if one is given."""
        return any(
            only in (None, subscriber.registration) and subscriber.scheduler.runs(task)
            for subscriber in self._subscribers.values()
        )

    def health(self) -> tuple[ConsumerHealth, ...]:
        """Say how each consumer is."""
        return tuple(subscriber.health() for subscriber in self._subscribers.values())

    async def watch(self) -> None:
        """Wait until a consumer ends that nobody closed, and raise `ConsumerStoppedError`."""
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
    """Raise `InvalidTopologyError` if the registration could not work beside the others."""
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


def _key(registration: IntegrationEventBusRegistration) -> tuple[str, str]:
    return registration.consumer.name, registration.topic.name
