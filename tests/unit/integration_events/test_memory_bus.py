"""What is the in-memory bus's own; the rest is in the contracts."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

import pytest

from events.errors import BusUnavailableError, InvalidTopologyError, NoSuchDeadLetterError
from events.integration import (
    EventHandlerConsumer,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    RetryPolicy,
    Topic,
)
from events.integration.brokering.read_ahead import READ_AHEAD
from events.integration.implementation.memory import (
    InMemoryBroker,
    InMemoryIntegrationEventBus,
    InMemoryTransport,
)
from events.integration.message import Message

TOPIC = Topic("orders")


@dataclass
class Ordered(IntegrationEvent):
    type = "memory.ordered"
    version = 1
    number: int = 0


class Billing(EventHandlerConsumer):
    """Collects what it handles; fails on demand."""

    def __init__(self, name: str = "billing") -> None:
        super().__init__(name, {Ordered: self.handle})
        self.seen: list[int] = []
        self.failing = False

    async def handle(self, event: Ordered) -> None:
        if self.failing:
            raise ValueError("not now")
        self.seen.append(event.number)

    def registered(
        self, topic: Topic = TOPIC, retry: RetryPolicy | None = None
    ) -> IntegrationEventBusRegistration:
        return IntegrationEventBusRegistration(self, topic, [Ordered], retry=retry)


async def test_buses_that_share_a_broker_share_its_queues() -> None:
    broker, billing = InMemoryBroker(), Billing()
    async with (
        InMemoryIntegrationEventBus([billing.registered()], broker=broker),
        InMemoryIntegrationEventBus(broker=broker) as sender,
    ):
        await sender.send(TOPIC, Ordered(1))
        await broker.quiet()
    assert billing.seen == [1]


async def test_buses_of_their_own_share_nothing() -> None:
    billing = Billing()
    async with (
        InMemoryIntegrationEventBus([billing.registered()]) as bus,
        InMemoryIntegrationEventBus() as other,
    ):
        await other.send(TOPIC, Ordered(1))
        await bus.send(TOPIC, Ordered(2))
        await bus.broker.quiet()
    assert billing.seen == [2]


async def test_what_is_sent_while_a_consumer_is_stopped_waits_in_its_place_in_line() -> None:
    billing = Billing()
    bus = InMemoryIntegrationEventBus([billing.registered()])
    async with bus:
        pass
    async with InMemoryIntegrationEventBus(broker=bus.broker) as sender:
        await sender.send_many(TOPIC, [Ordered(n) for n in range(5)])
        assert bus.broker.pending() == {("orders", "billing"): 5}
    async with bus:
        await bus.broker.quiet()
    assert billing.seen == [0, 1, 2, 3, 4]
    assert bus.broker.pending() == {}


async def test_what_is_released_goes_back_to_where_it_was() -> None:
    begun, hold = asyncio.Event(), True
    seen: list[int] = []

    async def handle(event: Ordered) -> None:
        if hold:
            begun.set()
            await asyncio.Event().wait()
        seen.append(event.number)

    consumer = EventHandlerConsumer("billing", {Ordered: handle})
    registration = IntegrationEventBusRegistration(
        consumer, TOPIC, [Ordered], concurrency=3, order_by=lambda event: event.number % 2
    )
    bus = InMemoryIntegrationEventBus([registration], shutdown_grace=0)
    async with bus:
        await bus.send_many(TOPIC, [Ordered(n) for n in range(60)])
        await begun.wait()
    hold = False
    in_order = IntegrationEventBusRegistration(consumer, TOPIC, [Ordered])
    async with InMemoryIntegrationEventBus([in_order], broker=bus.broker):
        await bus.broker.quiet()
    assert seen == list(range(60))


async def test_a_delayed_retry_outlives_a_restart_of_the_bus() -> None:
    billing = Billing()
    billing.failing = True
    retry = RetryPolicy(delay=0.02, jitter=0, in_place=0)
    bus = InMemoryIntegrationEventBus([billing.registered(retry=retry)])
    async with bus:
        await bus.send(TOPIC, Ordered(1))
        (queue,) = bus.broker._queues["orders"].values()
        async with asyncio.timeout(60):
            while not queue._delayed:
                await asyncio.sleep(0)
    assert queue._timer is None  # nobody takes, so nothing ticks
    billing.failing = False
    async with bus:
        await bus.broker.quiet()
    assert billing.seen == [1]


async def test_dead_letters_are_bounded_and_what_finds_no_room_stays(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("events.integration.implementation.memory.broker._DEAD_LETTER_RETRY", 0.01)
    billing = Billing()
    billing.failing = True
    broker = InMemoryBroker(max_dead_letters=1)
    retry = RetryPolicy(attempts=1)
    async with InMemoryIntegrationEventBus([billing.registered(retry=retry)], broker=broker) as bus:
        await bus.send_many(TOPIC, [Ordered(1), Ordered(2)])
        async with asyncio.timeout(60):
            while not any("dead letters, the maximum" in r.message for r in caplog.records):
                await asyncio.sleep(0.001)
        assert broker.pending() == {("orders", "billing"): 1}
        (letter,) = await bus.dead_letters(billing)
        await bus.discard(billing, [letter])
        await broker.quiet()
        (letter,) = await bus.dead_letters(billing)
        billing.failing = False
        assert await bus.redrive(billing, [letter.id]) == 1
        await broker.quiet()
    assert billing.seen == [2]


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "10", None])
async def test_a_listing_of_dead_letters_has_a_limit_from_1_on(limit: Any) -> None:
    async with InMemoryIntegrationEventBus() as bus:
        with pytest.raises(ValueError, match="limit must be") as caught:
            await bus.dead_letters("billing", limit=limit)
    assert str(caught.value) == (
        f"dead letters of billing on InMemoryIntegrationEventBus(): limit must be a whole number "
        f"from 1 on, not {limit!r}; for the next page, call again with after="
    )


async def test_one_dead_letter_alone_is_not_taken_for_the_characters_of_its_id() -> None:
    billing = Billing()
    billing.failing = True
    broker = InMemoryBroker()
    retry = RetryPolicy(attempts=1)
    async with InMemoryIntegrationEventBus([billing.registered(retry=retry)], broker=broker) as bus:
        await bus.send_many(TOPIC, [Ordered(number) for number in range(12)])
        await broker.quiet()
        letters = await bus.dead_letters(billing)
        (tenth,) = [letter for letter in letters if len(letter.id) == 2][:1]
        assert await bus.discard(billing, tenth.id) == 1
        with pytest.raises(NoSuchDeadLetterError, match=f"no dead letter {tenth.id}:"):
            await bus.redrive(billing, tenth.id)
        assert [each.id for each in await bus.dead_letters(billing)] == [
            each.id for each in letters if each is not tenth
        ]


async def test_a_policy_of_another_kind_is_refused_when_the_bus_is_made() -> None:
    given: Any = 3
    with pytest.raises(InvalidTopologyError, match=r"a RetryPolicy, as in RetryPolicy\(attempts=3"):
        InMemoryIntegrationEventBus(retry=given)


async def test_a_dead_letter_that_is_not_there_is_named_and_the_others_are_redriven() -> None:
    billing = Billing()
    billing.failing = True
    async with InMemoryIntegrationEventBus(
        [billing.registered(retry=RetryPolicy(attempts=1))]
    ) as bus:
        await bus.send(TOPIC, Ordered(1))
        await bus.broker.quiet()
        (letter,) = await bus.dead_letters("billing")
        billing.failing = False
        with pytest.raises(NoSuchDeadLetterError, match="'billing' has no dead letter 77: it was"):
            await bus.redrive("billing", ["77", letter.id])
        await bus.broker.quiet()
        with pytest.raises(NoSuchDeadLetterError, match=f"dead letter {letter.id}"):
            await bus.discard("billing", [letter])
    assert billing.seen == [1]


async def test_the_senders_headers_are_copied_and_cannot_be_changed_on_the_way() -> None:
    transport = InMemoryTransport()
    queue = transport.broker.queue("orders", "billing")
    await transport.connect()
    headers = {"tenant": "acme"}
    await transport.publish(Message("orders", "t", "id", b"", headers))
    headers["tenant"] = "other"
    (entry,) = queue._ready
    assert dict(entry.message.headers) == {"tenant": "acme"}
    with pytest.raises(TypeError):
        entry.message.headers["tenant"] = "x"  # type: ignore[index]


async def test_a_closed_transport_takes_nothing() -> None:
    transport = InMemoryTransport()
    with pytest.raises(BusUnavailableError, match="InMemoryTransport is not available: it is"):
        await transport.publish(Message("orders", "t", "id", b"", {}))


async def test_who_sends_in_a_loop_lets_the_consumer_run() -> None:
    billing = Billing()
    async with InMemoryIntegrationEventBus([billing.registered()]) as bus:
        for number in range(1_000):
            await bus.send(TOPIC, Ordered(number))
        assert billing.seen  # and not only from here on
        await bus.broker.quiet()
    assert billing.seen == list(range(1_000))


async def test_those_who_share_a_name_share_the_work_fairly() -> None:
    broker, gate = InMemoryBroker(), asyncio.Event()
    counts = [0, 0, 0]

    def worker(index: int) -> InMemoryIntegrationEventBus:
        async def handle(event: Ordered) -> None:
            counts[index] += 1
            await gate.wait()

        consumer = EventHandlerConsumer("billing", {Ordered: handle})
        registration = IntegrationEventBusRegistration(consumer, TOPIC, [Ordered], concurrency=2)
        return InMemoryIntegrationEventBus([registration], broker=broker)

    async with worker(0) as bus, worker(1), worker(2):
        await bus.send_many(TOPIC, [Ordered(n) for n in range(30)])
        async with asyncio.timeout(60):
            while sum(counts) < 6:
                await asyncio.sleep(0)
        assert counts == [2, 2, 2]
        gate.set()
        await broker.quiet()
    assert sum(counts) == 30
    assert min(counts) >= 8


async def test_nothing_but_its_start_ends_up_in_the_log_while_nothing_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "events")
    billing = Billing()
    async with InMemoryIntegrationEventBus([billing.registered()]) as bus:
        await bus.send_many(TOPIC, [Ordered(n) for n in range(10)])
        assert caplog.messages == [
            "the in-memory bus is connected, nothing it carries outlives the process"
        ]
        caplog.clear()
        await bus.send_many(TOPIC, [Ordered(n) for n in range(10)])
        await bus.broker.quiet()
    assert caplog.records == []


async def test_what_is_in_flight_of_keys_that_wait_is_bounded_in_bytes() -> None:
    in_flight, gate = 0, asyncio.Event()

    @dataclass
    class Large(IntegrationEvent):
        type = "memory.large"
        version = 1
        text: str

    async def handle(event: Large) -> None:
        await gate.wait()

    def key(event: Large) -> str:
        nonlocal in_flight
        in_flight += 1
        return "one"

    size, count = 900_000, 30
    consumer = EventHandlerConsumer("slow", {Large: handle})
    registration = IntegrationEventBusRegistration(
        consumer, TOPIC, [Large], order_by=key, concurrency=2
    )
    async with InMemoryIntegrationEventBus([registration]) as bus:
        await bus.send_many(TOPIC, [Large("x" * size)] * count)
        assert READ_AHEAD <= in_flight * size <= READ_AHEAD + size
        gate.set()
        await bus.broker.quiet()
    IntegrationEvent.registry.remove(Large)
    assert in_flight == count
