"""Each fault by itself; that the contracts notice them is in test_contracts_can_fail.py."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from events.errors import BusUnavailableError, SendOutcomeUnknownError
from events.integration import (
    EventHandlerConsumer,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    Message,
    RetryPolicy,
    Topic,
    current_delivery,
)
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.implementation.memory import InMemoryTransport
from events.integration.message import Ack, Delivery, Settlement
from events.integration.transport import Deliver, Subscribed, Subscription
from events.testing import Fault, FaultyTransport, eventually, until_quiet
from events.testing.contracts import Numbered, Probe
from events.testing.faults import (
    ChangeMessage,
    CorruptBody,
    DelayPublish,
    DropSilently,
    DuplicatePublish,
    FailPublish,
    ForgetAttempts,
    IgnoreReject,
    IgnoreRetryDelay,
    LeakSubscription,
    LoseDelivery,
    LoseSettlement,
    Misroute,
    NeverConfirm,
    ReorderPublish,
    StripHeaders,
    SubscribeTwice,
    UnknownOutcome,
)

TOPIC = Topic("faults")


@dataclass
class Thing(IntegrationEvent):
    type = "tests.faulty.thing"
    version = 1
    number: int


@dataclass
class World:
    bus: TransportIntegrationEventBus
    transport: FaultyTransport
    inner: InMemoryTransport
    got: list[int]
    attempts: list[int]
    fails: int = 0

    async def send(self, *numbers: int) -> None:
        for number in numbers:
            await self.bus.send(TOPIC, Thing(number), headers={"x-one": "1", "x-two": "2"})

    async def quiet(self) -> list[int]:
        await until_quiet(self.inner.broker)
        return self.got


@asynccontextmanager
async def world(
    *faults: Fault,
    fails: int = 0,
    retry: RetryPolicy | None = None,
    send_timeout: float = 60.0,
) -> AsyncGenerator[World, None]:
    inner = InMemoryTransport()
    transport = FaultyTransport(inner, *faults)
    bus = TransportIntegrationEventBus(transport, send_timeout=send_timeout, shutdown_grace=0)
    made = World(bus, transport, inner, [], [], fails)

    async def handle(event: Thing) -> None:
        delivery = current_delivery()
        assert delivery is not None
        made.attempts.append(delivery.attempt)
        if len(made.attempts) <= made.fails:
            raise RuntimeError("bad")
        made.got.append(event.number)

    consumer = EventHandlerConsumer("consumer", {Thing: handle})
    retry = retry or RetryPolicy(attempts=3, delay=0.001, in_place=0)
    await bus.register(IntegrationEventBusRegistration(consumer, TOPIC, [Thing], retry=retry))
    async with bus:
        yield made


async def test_without_faults_nothing_changes() -> None:
    async with world(Fault(), fails=1) as w:
        assert w.transport.features == w.inner.features
        assert w.transport.connected
        await w.send(1, 2)
        assert sorted(await w.quiet()) == [1, 2]
        assert w.bus.health().healthy
    assert not w.transport.connected


async def test_a_fault_strikes_so_often_and_those_only() -> None:
    fault = DropSilently(times=2, when=lambda m: b'"number":3' not in m.body)
    async with world(fault) as w:
        await w.send(3, 1, 2, 3, 4)
        assert await w.quiet() == [3, 3, 4]
        assert fault.struck == 2


async def test_faults_work_one_after_another_and_can_be_changed() -> None:
    async with world(DuplicatePublish(), DuplicatePublish()) as w:
        await w.send(1)
        assert await w.quiet() == [1] * 4
        w.transport.faults.clear()
        await w.send(2)
        assert await w.quiet() == [1] * 4 + [2]


async def test_fail_publish() -> None:
    async with world(FailPublish(times=1)) as w:
        with pytest.raises(BusUnavailableError):
            await w.send(1)
        await w.send(2)
        assert await w.quiet() == [2]


@pytest.mark.parametrize("taken", [True, False])
async def test_unknown_outcome(taken: bool) -> None:
    async with world(UnknownOutcome(taken=taken, times=1)) as w:
        with pytest.raises(SendOutcomeUnknownError):
            await w.send(1)
        await w.send(2)
        assert await w.quiet() == ([1, 2] if taken else [2])


async def test_delay_publish() -> None:
    async with world(DelayPublish(0.02, times=1)) as w:
        began = time.monotonic()
        await w.send(1, 2)
        assert time.monotonic() - began >= 0.019
        assert await w.quiet() == [1, 2]


async def test_never_confirm() -> None:
    async with world(NeverConfirm(times=1), send_timeout=0.2) as w:
        with pytest.raises(SendOutcomeUnknownError):
            await w.send(1)
        w.bus._sender._timeout = 60.0  # the next one is confirmed, on a busy machine as well
        await w.send(2)
        assert await w.quiet() == [1, 2]


async def test_reorder_publish() -> None:
    async with world(ReorderPublish(times=1)) as w:
        await w.send(1, 2, 3)
        assert await w.quiet() == [2, 1, 3]


async def test_corrupt_body() -> None:
    async with world(CorruptBody(times=1)) as w:
        await w.send(1, 2)
        assert await w.quiet() == [2]
        (letter,) = await w.bus.dead_letters("consumer")
        assert letter.reason == "undecodable"


@pytest.mark.parametrize(
    ("fault", "left"),
    [(StripHeaders(), set[str]()), (StripHeaders("x-two", "content-type"), {"x-one"})],
)
async def test_strip_headers(fault: Fault, left: set[str]) -> None:
    seen: list[set[str]] = []

    def look(message: Message) -> Message:
        seen.append(set(message.headers))
        return message

    spy = ChangeMessage(look)
    async with world(fault, spy) as w:
        await w.send(1)
        assert await w.quiet() == [1]
    assert {name for name in seen[0] if not name.startswith("ce-")} == left


async def test_misroute() -> None:
    async with world(Misroute("elsewhere", times=1)) as w:
        await w.send(1, 2)
        assert await w.quiet() == [2]


async def test_lose_delivery() -> None:
    async with world(LoseDelivery(times=1)) as w:
        await w.send(1, 2)
        assert await w.quiet() == [2]


async def test_lose_settlement() -> None:
    async with world(LoseSettlement(times=1)) as w:
        await w.send(1, 2)
        assert await w.quiet() == [1, 1, 2]
        assert w.attempts == [1, 1, 1]


async def test_forget_attempts() -> None:
    async with world(ForgetAttempts(), fails=5) as w:
        await w.send(1)
        assert await w.quiet() == [1]
        assert w.attempts == [1] * 6


async def test_ignore_retry_delay() -> None:
    async with world(IgnoreRetryDelay(), fails=1, retry=RetryPolicy(delay=60)) as w:
        await w.send(1)
        assert await w.quiet() == [1]


async def test_ignore_reject() -> None:
    async with world(IgnoreReject(), fails=9) as w:
        await w.send(1)
        assert await w.quiet() == []
        assert await w.bus.dead_letters("consumer") == []


@pytest.mark.parametrize("fault", [SubscribeTwice(), LeakSubscription()])
async def test_leaks(fault: Fault) -> None:
    async with world(fault) as w:
        await w.send(1)
        assert await w.quiet() == [1]
    assert w.inner.broker.consumers() == {("faults", "consumer"): 1}


async def test_a_lost_connection_and_its_return() -> None:
    began, gate = asyncio.Event(), asyncio.Event()
    transport = FaultyTransport(InMemoryTransport())
    handled: list[int] = []

    async def handle(event: Thing) -> None:
        began.set()
        await gate.wait()
        handled.append(event.number)

    consumer = EventHandlerConsumer("consumer", {Thing: handle})
    registration = IntegrationEventBusRegistration(consumer, TOPIC, [Thing])
    async with TransportIntegrationEventBus(transport, [registration]) as bus:
        await bus.send(TOPIC, Thing(1))
        await began.wait()
        await transport.lose_connection()

        assert not bus.health().connected
        assert bus.health().consumers[0].alive
        assert bus.health().consumers[0].last_poll is None
        with pytest.raises(BusUnavailableError, match="the connection is lost"):
            await bus.send(TOPIC, Thing(2))
        other = EventHandlerConsumer("other", {Thing: handle})
        with pytest.raises(BusUnavailableError):
            await bus.register(IntegrationEventBusRegistration(other, TOPIC, [Thing]))
        gate.set()
        await eventually(lambda: handled == [1])  # it was not cancelled, its settlement is lost

        await transport.restore_connection()
        assert bus.health().healthy
        await eventually(lambda: handled == [1, 1])
        await bus.send(TOPIC, Thing(3))
        await eventually(lambda: handled == [1, 1, 3])


async def test_a_bus_can_be_shut_down_without_a_connection() -> None:
    async with world() as w:
        await w.transport.lose_connection()
    assert w.inner.broker.consumers() == {}
    with pytest.raises(BusUnavailableError):
        await w.bus.startup()
    await w.transport.restore_connection()
    async with w.bus:
        await w.send(1)
        assert await w.quiet() == [1]


class SlowToSubscribe(Fault):
    async def on_subscribe(
        self,
        subscription: Subscription,
        deliver: Deliver,
        subscribe: Callable[[Subscription, Deliver], Awaitable[Subscribed]],
    ) -> Subscribed:
        self.strikes(subscription)
        await asyncio.sleep(0.01)
        return await subscribe(subscription, deliver)


async def test_a_fault_of_ones_own_shows_what_unregistering_during_startup_does() -> None:
    fault = SlowToSubscribe()
    inner = InMemoryTransport()
    first, second, third = (
        IntegrationEventBusRegistration(Probe(name), TOPIC, [Numbered])
        for name in ("first", "second", "third")
    )
    bus = TransportIntegrationEventBus(FaultyTransport(inner, fault), [first, second, third])
    starting = asyncio.create_task(bus.startup())
    await eventually(lambda: fault.struck)
    await bus.unregister(first)
    await bus.unregister(third)
    await starting
    assert {consumer.consumer for consumer in bus.health().consumers} == {"second"}
    assert inner.broker.consumers() == {("faults", "second"): 1}
    await bus.shutdown()


@pytest.mark.parametrize("turns", range(5))
async def test_a_connection_is_lost_in_any_turn_of_the_loop_while_a_delivery_is_settled(
    turns: int,
) -> None:
    transport = FaultyTransport(InMemoryTransport())
    got: list[asyncio.Future[Settlement]] = []

    def deliver(delivery: Delivery) -> asyncio.Future[Settlement]:
        got.append(asyncio.get_running_loop().create_future())
        return got[-1]

    await transport.connect()
    asked = Subscription(
        topic=TOPIC.name,
        consumer="one",
        types=frozenset({"number"}),
        concurrency=1,
        ordered=False,
    )
    subscribed = await transport.subscribe(asked, deliver)
    await transport.publish(Message(TOPIC.name, "number", "1", b"{}", {}))
    await eventually(lambda: bool(got))
    got[0].set_result(Ack())
    for _ in range(turns):
        await asyncio.sleep(0)
    await transport.lose_connection()
    assert not transport.connected
    await subscribed.close()
    await transport.close()
