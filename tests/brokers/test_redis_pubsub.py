"""What is Redis pub/sub's own: what it loses, and that it says so; who else can read and write."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from events.errors import (
    BusError,
    BusUnavailableError,
    InvalidTopologyError,
    SendOutcomeUnknownError,
)
from events.integration.brokering.read_ahead import READ_AHEAD
from events.integration.event import IntegrationEvent
from events.integration.implementation.redis import (
    RedisPubSubIntegrationEventBus,
    RedisPubSubTransport,
)
from events.integration.message import Ack, Delivery, Settlement
from events.integration.topology import (
    EventHandlerConsumer,
    IntegrationEventBusRegistration,
    Topic,
)
from events.integration.transport import Subscription
from events.testing import eventually
from events.testing.contracts import Numbered, Probe
from tests.brokers.redis_server import RedisServer, redis_url

TIMEOUT = 120.0


@pytest.fixture
def topic() -> Topic:
    return Topic(f"pubsub-{uuid4().hex[:12]}")


@pytest.fixture
def server(tmp_path: Path) -> Generator[RedisServer, None, None]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


def new_bus(
    url: str, registrations: Sequence[IntegrationEventBusRegistration] = (), **options: Any
) -> RedisPubSubIntegrationEventBus:
    settings: dict[str, Any] = {"connect_timeout": 30.0, "send_timeout": 30.0}
    return RedisPubSubIntegrationEventBus(url, registrations, **settings | options)


def on(probe: Probe, topic: Topic) -> IntegrationEventBusRegistration:
    return IntegrationEventBusRegistration(probe, topic, [Numbered])


def interruptions(bus: RedisPubSubIntegrationEventBus) -> int:
    assert isinstance(bus.transport, RedisPubSubTransport)
    return bus.transport.interruptions


async def test_a_bare_event_of_another_program_is_read(topic: Topic) -> None:
    probe = Probe("one")
    async with new_bus(redis_url()) as bus, Redis.from_url(redis_url()) as redis:
        await bus.register(on(probe, topic))
        body = {"type": Numbered.type, "version": 1, "number": 7}
        await redis.publish(topic.name, json.dumps(body))
        await eventually(lambda: probe.handled == [Numbered(7)])


async def test_another_program_reads_the_envelope(topic: Topic) -> None:
    async with new_bus(redis_url()) as bus, Redis.from_url(redis_url()) as redis:
        listening: Any = redis.pubsub()
        await listening.subscribe(topic.name)
        await bus.send(topic, Numbered(7))

        async def message() -> Any:
            return await listening.get_message(ignore_subscribe_messages=True)

        envelope = json.loads((await eventually(message))["data"])
        await listening.aclose()
    assert envelope["specversion"] == "1.0"
    assert envelope["type"] == Numbered.type
    assert envelope["data"] == {
        "type": Numbered.type,
        "version": 1,
        "number": 7,
        "key": "",
        "text": "",
    }


async def test_one_connection_serves_all_subscriptions(topic: Topic) -> None:
    name = f"events-test-{uuid4().hex}"
    probes = [Probe(str(number)) for number in range(5)]
    async with (
        new_bus(f"{redis_url()}?client_name={name}") as bus,
        Redis.from_url(redis_url()) as redis,
    ):
        for probe in probes:
            await bus.register(on(probe, Topic(f"{topic.name}-{probe.name}")))
        clients = [c for c in await redis.client_list() if c["name"] == name]
        assert sorted(int(client["sub"]) for client in clients) == [0, 5]


async def test_it_subscribes_again_by_itself_and_says_what_was_lost(
    server: RedisServer, topic: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    probe = Probe("one")
    async with new_bus(server.url) as bus:
        await bus.register(on(probe, topic))
        await asyncio.to_thread(server.restart)
        # Until then it may not have noticed that it lost both connections.
        await eventually(lambda: caplog.text.count(" is connected again") == 2, TIMEOUT)
        await eventually(lambda: bus.health().healthy, TIMEOUT)
        await bus.send(topic, Numbered(1))
        await eventually(lambda: probe.numbers == [1])
        assert interruptions(bus) == 1
    lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(lines) == len(set(lines)), "each reason once"
    # Both connections were lost, one of them with what was published meanwhile, and both are back.
    for twice in (" is connected again after", " lost its connection: "):
        assert sum(twice in line for line in lines) == 2, lines
    assert not any(r.exc_info for r in caplog.records)


async def test_a_slow_subscriber_that_the_server_drops_is_logged_and_counted(
    server: RedisServer, topic: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    gate = asyncio.Event()
    probe = Probe("slow", lambda _: gate.wait())
    async with (
        new_bus(server.url, backlog=10) as bus,
        new_bus(server.url) as sender,
        Redis.from_url(server.url) as redis,
    ):
        await redis.config_set("client-output-buffer-limit", "pubsub 65536 0 0")
        await bus.register(on(probe, topic))
        sent = 0
        while "scheduled to be closed ASAP" not in await _log(server):
            await sender.send_many(topic, [Numbered(sent, text="x" * 50_000) for _ in range(100)])
            sent += 100
            assert sent < 20_000, "the server never dropped the slow subscriber"
        gate.set()
        await eventually(lambda: interruptions(bus) == 1, TIMEOUT)
        await eventually(lambda: bus.health().healthy, TIMEOUT)
        seen = len(probe.handled)
        assert seen < sent
        await sender.send(topic, Numbered(-1))
        await eventually(lambda: -1 in probe.numbers, TIMEOUT)
    assert any("behind. Reading stops" in r.getMessage() for r in caplog.records)
    assert any("subscriptions lost its connection" in r.getMessage() for r in caplog.records)


@dataclass(frozen=True)
class Counted(IntegrationEvent):
    type = "pubsub.counted"
    version = 1
    number: int
    made: ClassVar[int] = 0

    def __post_init__(self) -> None:
        Counted.made += 1


def gated(topic: Topic) -> tuple[IntegrationEventBusRegistration, asyncio.Event, list[int]]:
    """Return a consumer that waits at the gate with each event, and what it has handled."""
    gate = asyncio.Event()
    handled: list[int] = []

    async def handle(event: Counted) -> None:
        await gate.wait()
        handled.append(event.number)

    consumer = EventHandlerConsumer("slow", {Counted: handle})
    return IntegrationEventBusRegistration(consumer, topic, [Counted]), gate, handled


async def fall_behind(bus: RedisPubSubIntegrationEventBus, topic: Topic, events: int) -> None:
    """Return when the consumers of the topic were given so many events."""
    Counted.made = 0
    async with Redis.from_url(redis_url()) as redis:
        for number in range(events):
            await redis.publish(topic.name, counted(number))
        # One connection reads for all of a bus, in order.
        last = Probe("last")
        await bus.register(on(last, topic))
        await bus.send(topic, Numbered(1))
        await eventually(lambda: last.numbers == [1])


async def test_what_waits_for_its_turn_is_kept_as_bytes_and_in_order(topic: Topic) -> None:
    registration, gate, handled = gated(topic)
    async with new_bus(redis_url(), [registration]) as bus:
        await fall_behind(bus, topic, 500)
        assert Counted.made == 2  # the one that is handled, and the one that is next
        gate.set()
        await eventually(lambda: len(handled) == 500)
    assert handled == list(range(500))


async def test_what_waits_is_bounded_in_bytes(
    topic: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    size, count = 900_000, 30
    gate = asyncio.Event()
    probe = Probe("slow", lambda _: gate.wait())
    async with new_bus(redis_url(), [on(probe, topic)]) as bus, new_bus(redis_url()) as sender:
        sending = asyncio.create_task(
            sender.send_many(topic, [Numbered(number, text="x" * size) for number in range(count)])
        )
        await eventually(lambda: "Reading stops until" in caplog.text, TIMEOUT)
        (listener,) = cast("Any", bus.transport)._listeners[topic.name]
        assert READ_AHEAD <= listener.bytes_behind <= READ_AHEAD + size + 1_000
        gate.set()
        await eventually(lambda: probe.numbers == list(range(count)), TIMEOUT)
        await sending


async def test_closing_drops_what_waits_for_its_turn(
    topic: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    registration, _, handled = gated(topic)
    async with new_bus(redis_url(), [registration], shutdown_grace=0.0) as bus:
        await fall_behind(bus, topic, 50)
    assert handled == []
    assert Counted.made <= 3  # nothing was decoded needlessly
    assert any("their events are lost" in record.getMessage() for record in caplog.records)


async def publish(topic: Topic, *bodies: str) -> None:
    """Publish them so that they come all at once."""
    async with Redis.from_url(redis_url()) as redis, redis.pipeline(transaction=True) as together:
        for body in bodies:
            together.publish(topic.name, body)
        await together.execute()


def counted(number: int) -> str:
    return json.dumps({"type": Counted.type, "version": 1, "number": number})


OTHERS = json.dumps({"type": "pubsub.of-others", "version": 1})


async def test_who_skips_all_that_comes_is_not_behind(
    topic: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    probe = Probe("one")
    async with new_bus(redis_url(), [on(probe, topic)], backlog=50) as bus:
        await publish(topic, *[OTHERS] * 500)
        await bus.send(topic, Numbered(1))
        await eventually(lambda: probe.numbers == [1])
    assert not any("events behind" in record.getMessage() for record in caplog.records)


async def test_what_is_skipped_takes_no_turn_of_the_loop_each(topic: Topic) -> None:
    registration, gate, handled = gated(topic)
    async with new_bus(redis_url(), [registration]) as bus:
        await publish(topic, counted(0), counted(1), *[OTHERS] * 1_000, counted(2))
        await fall_behind(bus, topic, 0)
        gate.set()
        turns = 0
        while len(handled) < 3 and turns < 100:
            await asyncio.sleep(0)
            turns += 1
    assert handled == [0, 1, 2]
    assert 10 <= turns < 100  # and yet it does not keep others waiting until all of it is gone


async def test_what_comes_while_others_are_skipped_keeps_its_place(topic: Topic) -> None:
    registration, gate, handled = gated(topic)
    async with new_bus(redis_url(), [registration]) as bus, Redis.from_url(redis_url()) as redis:
        await publish(topic, counted(0), counted(1), *[OTHERS] * 5_000, counted(2))
        await fall_behind(bus, topic, 0)
        gate.set()
        await redis.publish(topic.name, counted(3))
        await eventually(lambda: len(handled) == 4)
    assert handled == [0, 1, 2, 3]


async def test_a_key_that_is_stuck_keeps_no_other_waiting(topic: Topic) -> None:
    gate = asyncio.Event()

    async def react(event: Numbered) -> None:
        if event.key == "stuck":
            await gate.wait()

    probe = Probe("one", react)
    registration = IntegrationEventBusRegistration(
        probe, topic, [Numbered], concurrency=2, order_by=lambda event: event.key
    )
    async with new_bus(redis_url(), [registration]) as bus:
        await bus.send_many(topic, [Numbered(number, key="stuck") for number in range(50)])
        await bus.send(topic, Numbered(50, key="free"))
        await eventually(lambda: probe.numbers == [50])
        gate.set()
        await eventually(lambda: len(probe.numbers) == 51)
    assert probe.numbers == [50, *range(50)]


async def test_bare_bodies_get_ids_of_their_own(topic: Topic) -> None:
    probes = [Probe("one"), Probe("two")]
    async with new_bus(redis_url(), [on(probe, topic) for probe in probes]):
        await publish(topic, *[json.dumps({"type": Numbered.type, "version": 1, "number": 1})] * 3)
        await eventually(lambda: all(len(probe.numbers) == 3 for probe in probes))
    assert len({each.delivery.id for probe in probes for each in probe.arrivals}) == 6


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there, no task starts at once")
async def test_who_is_unregistered_by_a_task_that_starts_at_once_costs_others_nothing(
    topic: Topic,
) -> None:
    asyncio.get_running_loop().set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009
    first, last = on(Probe("first"), topic), Probe("last")
    async with new_bus(redis_url(), [first]) as bus:
        await bus.register(on(Probe("middle", lambda _: bus.unregister(first)), topic))
        await bus.register(on(last, topic))
        await bus.send(topic, Numbered(1))
        await eventually(lambda: last.numbers == [1])


async def test_what_cannot_be_handed_over_does_not_hold_up_the_rest(topic: Topic) -> None:
    loop = asyncio.get_running_loop()
    raised: list[object] = []
    loop.set_exception_handler(lambda _, context: raised.append(context["exception"]))
    handed: dict[bytes, asyncio.Future[Settlement]] = {}

    def deliver(delivery: Delivery) -> asyncio.Future[Settlement]:
        future = handed[delivery.body] = loop.create_future()
        if delivery.body in {b"2", b"3"}:
            raise RuntimeError
        return future

    async with new_bus(redis_url(), backlog=4) as bus:
        wanted = Subscription(
            topic=topic.name, consumer="one", types=frozenset(), concurrency=1, ordered=False
        )
        listener = await bus.transport.subscribe(wanted, deliver)
        await publish(topic, *map(str, range(8)))
        for number in (0, 1, 4, 5, 6, 7):
            body = b"%d" % number
            await eventually(lambda: body in handed)  # noqa: B023
            handed[body].set_result(Ack())
        await listener.close()
    assert [type(error) for error in raised] == [RuntimeError, RuntimeError]


async def _log(server: RedisServer) -> str:
    return await asyncio.to_thread((server.folder / "log").read_text)


async def test_a_frozen_server_is_noticed(server: RedisServer, topic: Topic) -> None:
    probe = Probe("one")
    async with new_bus(server.url, connect_timeout=10.0, send_timeout=5.0) as bus:
        await bus.register(on(probe, topic))
        server.freeze()
        async with asyncio.timeout(TIMEOUT):
            with pytest.raises(SendOutcomeUnknownError):
                await bus.send(topic, Numbered(1))
            with pytest.raises(BusUnavailableError):
                await bus.send(topic, Numbered(2))
        server.thaw()
        await eventually(lambda: bus.health().healthy, TIMEOUT)

        async def is_heard() -> bool:
            # A busy machine may have it lose a connection once more, and what is sent then.
            with suppress(BusError):
                await bus.send(topic, Numbered(3))
            return 3 in probe.numbers

        await eventually(is_heard, TIMEOUT)


async def test_a_server_that_goes_cancels_no_handler(server: RedisServer, topic: Topic) -> None:
    gate = asyncio.Event()
    probe = Probe("one", lambda _: gate.wait())
    async with new_bus(server.url) as bus:
        await bus.register(on(probe, topic))
        await bus.send(topic, Numbered(1))
        await eventually(lambda: probe.running)
        await asyncio.to_thread(server.restart)
        await eventually(lambda: bus.health().healthy, TIMEOUT)
        gate.set()
        await eventually(lambda: probe.numbers == [1])


async def test_a_client_that_was_given_stays_open(topic: Topic) -> None:
    async with Redis.from_url(redis_url(), decode_responses=True, protocol=3) as redis:
        probe = Probe("one")
        async with RedisPubSubIntegrationEventBus(redis, [on(probe, topic)]) as bus:
            await bus.send(topic, Numbered(1))
            await eventually(lambda: probe.numbers == [1])
        assert await redis.ping()


@pytest.mark.parametrize("url", ["redis+cluster://host", "sentinel://host", "host:6379"])
def test_what_it_cannot_connect_to_is_refused(url: str) -> None:
    with pytest.raises(InvalidTopologyError, match="redis, rediss or unix"):
        RedisPubSubIntegrationEventBus(url)


@pytest.mark.parametrize("backlog", [0, -1])
def test_a_backlog_that_would_never_be_read_is_refused(backlog: int) -> None:
    with pytest.raises(InvalidTopologyError, match="backlog must be at least 1"):
        new_bus(redis_url(), backlog=backlog)


def test_a_password_is_never_shown() -> None:
    bus = RedisPubSubIntegrationEventBus("redis://me:secret@host/0?password=secret")
    assert "secret" not in repr(bus)
    assert "me:***@host" in repr(bus)
