"""Buses that break one property each, and nothing else that the test of it would notice first."""

import asyncio
import gc
import warnings
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, Unpack

import msgspec.structs

from events.errors import BusNotStartedError
from events.integration import (
    Consumer,
    DeadLetter,
    Delivery,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    Message,
    Topic,
)
from events.integration.health import Backlog
from events.integration.implementation.base import BusOptions, TransportIntegrationEventBus
from events.integration.implementation.memory import InMemoryBroker, InMemoryTransport
from events.integration.message import Settlement
from events.integration.pipeline import Handle, IncomingEvent
from events.integration.transport import DeadLetterStore, Deliver, Subscribed, Subscription
from events.testing import Fault, FaultyTransport
from events.testing.contracts import Harness
from events.testing.faults import (
    ChangeMessage,
    ChangeSettlement,
    ReorderPublish,
)


def collect_what_is_left() -> None:
    """Collect what a test that was broken, and cancelled, left open, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


class FaultyHarness(Harness):
    """In-memory buses on transports that lose their connection on demand, and have faults."""

    def __init__(
        self,
        *faults: Fault,
        bus_class: type[TransportIntegrationEventBus] = TransportIntegrationEventBus,
        declares: dict[str, Any] | None = None,
    ) -> None:
        self.broker = InMemoryBroker()
        self.faults = faults
        self.bus_class = bus_class
        self.features = msgspec.structs.replace(InMemoryTransport.features, **(declares or {}))

    def new_bus(self, **options: Unpack[BusOptions]) -> TransportIntegrationEventBus:
        inner = InMemoryTransport(self.broker)
        transport = FaultyTransport(inner, *self.faults, features=self.features)
        return self.bus_class(transport, **options)

    @asynccontextmanager
    async def break_dead_letters(self) -> AsyncGenerator[None, None]:
        kept, self.broker.max_dead_letters = self.broker.max_dead_letters, 0
        try:
            yield
        finally:
            self.broker.max_dead_letters = kept

    async def lose_connection(self, bus: TransportIntegrationEventBus) -> None:
        assert isinstance(bus.transport, FaultyTransport)
        await bus.transport.lose_connection()
        await bus.transport.restore_connection()

    async def open_resources(self) -> dict[str, int]:
        return {"consumers": sum(self.broker.consumers().values())}


# --- what to hit ------------------------------------------------------------------------------

When: TypeAlias = Callable[[Message | Delivery], bool]


def is_number(*numbers: int) -> When:
    return lambda subject: any(b'"number":%d,' % n in subject.body for n in numbers)


def is_binary(subject: Message | Delivery) -> bool:
    return "ce-id" in subject.headers


def is_other(subject: Message | Delivery) -> bool:
    return b"events.contracts.other" in subject.body


def goes_to(name: str) -> When:
    return lambda subject: isinstance(subject, Delivery) and subject.consumer.startswith(name)


# --- faults that only a test needs ------------------------------------------------------------


def settle(change: Callable[[Settlement], Settlement], **plan: Any) -> ChangeSettlement:
    return ChangeSettlement(lambda _, settlement: change(settlement), **plan)


def change(**changes: Any) -> Callable[[Message], Message]:
    return lambda message: msgspec.structs.replace(message, **changes)


def with_header(name: str, value: str) -> ChangeMessage:
    return ChangeMessage(
        lambda m: msgspec.structs.replace(m, headers={**m.headers, name: value}), times=1
    )


def rerouted(here: str, there: str, when: When = lambda _: True) -> ChangeMessage:
    """Send the first message of a topic to another topic of the test."""
    return ChangeMessage(
        lambda m: msgspec.structs.replace(m, topic=m.topic.replace(here, there)),
        times=1,
        when=lambda m: m.topic.startswith(here) and when(m),
    )


class AttemptsGoOn(Fault):
    """Count the attempts of a message over its redrives."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[str, str]] = Counter()

    def on_delivery(self, delivery: Delivery, deliver: Deliver) -> "asyncio.Future[Settlement]":
        before = 2 * self.seen[delivery.consumer, delivery.id]
        self.seen[delivery.consumer, delivery.id] += 1
        return deliver(msgspec.structs.replace(delivery, attempt=before + delivery.attempt))


class ReorderKey(ReorderPublish):
    """Swap the first two messages of a key."""

    def __init__(self, key: str) -> None:
        super().__init__(times=1)
        self.key = b'"key":"%b"' % key.encode()

    def on_publish(
        self, message: Message, publish: Callable[[Message], Awaitable[None]]
    ) -> Awaitable[None]:
        return (
            super().on_publish(message, publish) if self.key in message.body else publish(message)
        )


class Replay(Fault):
    """Publish again, whenever a consumer starts, what was sent before."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[Message, Callable[[Message], Awaitable[None]]]] = []

    def on_publish(
        self, message: Message, publish: Callable[[Message], Awaitable[None]]
    ) -> Awaitable[None]:
        self.sent.append((message, publish))
        return publish(message)

    async def on_subscribe(
        self,
        subscription: Subscription,
        deliver: Deliver,
        subscribe: Callable[[Subscription, Deliver], Awaitable[Subscribed]],
    ) -> Subscribed:
        subscribed = await subscribe(subscription, deliver)
        for message, publish in self.sent:
            await publish(message)
        return subscribed


class LeakTask(Fault):
    """Start a task with each consumer that nothing ends."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[
            asyncio.Task[Literal[True]]
        ] = []  # else the garbage collector would end them

    async def on_subscribe(
        self,
        subscription: Subscription,
        deliver: Deliver,
        subscribe: Callable[[Subscription, Deliver], Awaitable[Subscribed]],
    ) -> Subscribed:
        self.tasks.append(asyncio.create_task(asyncio.Event().wait()))
        return await subscribe(subscription, deliver)


class WedgeWhenCancelled(Fault):
    """Never publish again once a publish was cancelled: the lock it held is never released."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = asyncio.Lock()

    def on_publish(
        self, message: Message, publish: Callable[[Message], Awaitable[None]]
    ) -> Awaitable[None]:
        return asyncio.ensure_future(self._publish(message, publish))

    async def _publish(
        self, message: Message, publish: Callable[[Message], Awaitable[None]]
    ) -> None:
        await self.lock.acquire()
        await asyncio.sleep(0)
        await publish(message)
        self.lock.release()


class DeadLetters(Fault):
    """Put `wrap` around the store of dead letters."""

    def __init__(self, wrap: Callable[[DeadLetterStore], DeadLetterStore]) -> None:
        super().__init__()
        self.wrap = wrap

    def on_dead_letters(self, store: DeadLetterStore) -> DeadLetterStore:
        return self.wrap(store)


@dataclass
class Store:
    inner: DeadLetterStore

    async def read(self, consumer: str, *, limit: int, after: str | None) -> Sequence[DeadLetter]:
        return await self.inner.read(consumer, limit=limit, after=after)

    async def redrive(self, consumer: str, ids: Sequence[str]) -> Sequence[str]:
        return await self.inner.redrive(consumer, ids)

    async def discard(self, consumer: str, ids: Sequence[str]) -> Sequence[str]:
        return await self.inner.discard(consumer, ids)


class Miscounts(TransportIntegrationEventBus):
    """Says that nothing waits."""

    async def backlog(
        self, consumer: Consumer | str, *, topics: Iterable[Topic] | None = None
    ) -> Backlog:
        return msgspec.structs.replace(await super().backlog(consumer, topics=topics), waiting=0)


class AltersBodies(Store):
    async def read(self, consumer: str, *, limit: int, after: str | None) -> Sequence[DeadLetter]:
        return [
            msgspec.structs.replace(
                letter, message=msgspec.structs.replace(letter.message, body=b"{}")
            )
            for letter in await super().read(consumer, limit=limit, after=after)
        ]


class AlwaysTheFirstPage(Store):
    async def read(self, consumer: str, *, limit: int, after: str | None) -> Sequence[DeadLetter]:
        return await super().read(consumer, limit=limit, after=None)


class ForgetsInGroups(Store):
    """Gives one less to those who look at heads alone."""

    async def scan_heads(self, consumer: str) -> AsyncGenerator[Sequence[DeadLetter]]:
        yield (await self.read(consumer, limit=100, after=None))[1:]


class GroupsByNothing(Store):
    """Leaves out of its heads what died of what."""

    async def scan_heads(self, consumer: str) -> AsyncGenerator[Sequence[DeadLetter]]:
        letters = await self.read(consumer, limit=100, after=None)
        yield [msgspec.structs.replace(letter, error="") for letter in letters]


class RemovesByLooking(Store):
    """Loses a letter to its reader, after the read."""

    async def scan_heads(self, consumer: str) -> AsyncGenerator[Sequence[DeadLetter]]:
        letters = await self.read(consumer, limit=100, after=None)
        yield letters
        await self.discard(consumer, [letters[0].id])


class RedrivesToAll(Store):
    async def redrive(self, consumer: str, ids: Sequence[str]) -> Sequence[str]:
        broker = self.inner
        assert isinstance(broker, InMemoryBroker)
        for letter in await broker.read(consumer, limit=100, after=None):
            broker.publish(letter.message)
        return await broker.discard(consumer, ids)


class KeepsEverything(Store):
    async def discard(self, consumer: str, ids: Sequence[str]) -> Sequence[str]:
        return ids


# --- what no transport can break --------------------------------------------------------------


def registering(**changes: Any) -> type[TransportIntegrationEventBus]:
    """Make a bus that subscribes with something else than what was registered."""

    class Bus(TransportIntegrationEventBus):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            subscribe = self._consumers.subscribe

            async def changed(registration: IntegrationEventBusRegistration) -> None:
                await subscribe(replace(registration, **changes))

            self._consumers.subscribe = changed  # type: ignore[method-assign]

    return Bus


class SwallowsErrors(TransportIntegrationEventBus):
    """Counts an event as handled whose handler has raised."""

    def __init__(self, *args: Any, **options: Any) -> None:
        async def swallow(incoming: IncomingEvent, call_next: Handle) -> None:
            with suppress(RuntimeError):
                await call_next(incoming)

        super().__init__(*args, middlewares=[swallow], **options)


class SwallowsWhatIsNoError(TransportIntegrationEventBus):
    """Counts an event as handled whose handler has raised what is no `Exception`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        async def swallow(incoming: IncomingEvent, call_next: Handle) -> None:
            with suppress(BaseException):
                await call_next(incoming)

        super().__init__(*args, middlewares=[swallow], **options)


class TriesThriceAtOnce(TransportIntegrationEventBus):
    """Calls the handler again without its being another attempt."""

    def __init__(self, *args: Any, **options: Any) -> None:
        async def insist(incoming: IncomingEvent, call_next: Handle) -> None:
            for _ in range(2):
                with suppress(RuntimeError):
                    await call_next(incoming)
            await call_next(incoming)

        super().__init__(*args, middlewares=[insist], **options)


class StartsAgain(TransportIntegrationEventBus):
    """Starts its consumers at each startup, started or not."""

    async def startup(self) -> None:
        if not self._started:
            await super().startup()
        else:
            for registration in self.registrations:
                await self._consumers.subscribe(registration)


class CannotStopTwice(TransportIntegrationEventBus):
    async def shutdown(self, *, grace: float | None = None) -> None:
        if not self._started:
            raise BusNotStartedError(self, "shut down")
        await super().shutdown(grace=grace)


class SendsIntoTheVoid(TransportIntegrationEventBus):
    """Accepts events when it is not started."""

    async def send(self, topic: Topic, event: IntegrationEvent, **options: Any) -> None:
        if self._started:
            await super().send(topic, event, **options)


class SendsAnything(TransportIntegrationEventBus):
    """Accepts events of any size."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._sender._max_body_size = 1 << 30


class HasNoGrace(TransportIntegrationEventBus):
    async def shutdown(self, *, grace: float | None = None) -> None:
        await super().shutdown(grace=0)


class HasEndlessGrace(TransportIntegrationEventBus):
    async def shutdown(self, *, grace: float | None = None) -> None:
        await super().shutdown(grace=3600)
