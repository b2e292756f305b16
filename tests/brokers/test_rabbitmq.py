"""What is RabbitMQ's own: topology, refusals, interoperation, alarms."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock
from uuid import uuid4

import pika  # type: ignore[import-untyped]
import pytest
from pika import data

from events.errors import (
    BusError,
    BusUnavailableError,
    ConsumerStoppedError,
    InvalidTopologyError,
    MessageTooLargeError,
    SendOutcomeUnknownError,
)
from events.integration import (
    IntegrationEvent,
    IntegrationEventBusRegistration,
    RetryPolicy,
    Topic,
)
from events.integration.implementation.rabbitmq import (
    RabbitMQIntegrationEventBus,
    _connection,
    _topology,
)
from events.integration.implementation.rabbitmq._channel import Channel
from events.integration.implementation.rabbitmq._topology import Names, _tier, topic_of
from events.integration.pipeline import pausing
from events.testing.contracts import Numbered, Probe
from events.testing.waiting import eventually
from tests.brokers.rabbitmq_server import (
    LARGEST,
    Client,
    Declared,
    RabbitMQServer,
    connections,
    rabbitmq_server,
    rabbitmq_url,
)
from tests.servers import free_port

__all__ = ["rabbitmq_server", "rabbitmq_url"]

BARE = b'{"type":"events.contracts.numbered","version":1,"number":%d}'


@pytest.fixture
def declared() -> Iterator[Declared]:
    declared = Declared()
    declared.start()
    yield declared
    declared.stop()


@pytest.fixture
def client(rabbitmq_url: str, declared: Declared) -> Iterator[Client]:
    with Client(rabbitmq_url) as client:
        yield client
    with Client(rabbitmq_url) as client:
        client.drop(declared.names)


@pytest.fixture
def topic() -> Topic:
    return Topic(f"quirks-{uuid4().hex[:8]}")


@pytest.fixture
def probe() -> Probe:
    return Probe(f"probe-{uuid4().hex[:8]}")


def registration(probe: Probe, topic: Topic, **options: Any) -> IntegrationEventBusRegistration:
    return IntegrationEventBusRegistration(probe, topic, [Numbered], **options)


@pytest.fixture
async def bus(
    rabbitmq_url: str, client: Client, topic: Topic, probe: Probe
) -> AsyncGenerator[RabbitMQIntegrationEventBus]:
    async with RabbitMQIntegrationEventBus(rabbitmq_url, [registration(probe, topic)]) as bus:
        yield bus


# --- topology -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "tier"), [(0, 0.01), (0.04, 0.05), (1, 1), (1.01, 2), (4.5, 5), (8, 10), (600, 700)]
)
def test_delays_are_rounded_up_to_few_tiers(seconds: float, tier: float) -> None:
    assert _tier(seconds) == pytest.approx(tier)


def test_names_cannot_collide() -> None:
    names = Names("a@b", "c:retry:5s", "quorum")
    assert names.main.name == "a%40b@c%3Aretry%3A5s"
    assert topic_of(names.main.name) == "c:retry:5s"
    assert names.retry(5).name == f"{names.main.name}:retry:5s"


@dataclass(frozen=True)
class Unheard(IntegrationEvent):
    type = "quirks.unheard"
    version = 1


async def test_what_reaches_no_queue_is_reported_once_for_each_type(
    bus: RabbitMQIntegrationEventBus, topic: Topic, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    def logged() -> list[str]:
        return [r.getMessage() for r in caplog.records if "reached no queue" in r.getMessage()]

    caplog.set_level(logging.INFO)
    await bus.send(topic, Numbered(1))
    await eventually(lambda: probe.numbers == [1])
    assert logged() == []
    await bus.send_many(topic, [Unheard() for _ in range(50)])
    await bus.send(topic, Unheard())
    await bus.send(topic, Numbered(2))
    await eventually(lambda: probe.numbers == [1, 2])
    assert len(logged()) == 1
    assert repr(topic.name) in logged()[0]
    assert Unheard.type in logged()[0]


async def test_names_that_are_too_long_together_are_refused(rabbitmq_url: str) -> None:
    bus = RabbitMQIntegrationEventBus(
        rabbitmq_url, [registration(Probe("c" * 200), Topic("t" * 200))]
    )
    with pytest.raises(InvalidTopologyError, match="255 bytes"):
        await bus.startup()


async def test_a_queue_with_other_arguments_is_an_error_that_names_the_difference(
    rabbitmq_url: str, client: Client, topic: Topic, probe: Probe
) -> None:
    queue = f"{probe.name}@{topic.name}"
    client.channel.queue_declare(queue, durable=True)
    bus = RabbitMQIntegrationEventBus(rabbitmq_url, [registration(probe, topic)])
    with pytest.raises(InvalidTopologyError) as raised:
        await bus.startup()
    for words in (queue, "x-queue-type='quorum'", "inequivalent arg", "current is none"):
        assert words in str(raised.value)


async def test_an_exchange_of_another_kind_is_an_error_for_those_who_send(
    rabbitmq_url: str, client: Client, topic: Topic
) -> None:
    client.channel.exchange_declare(topic.name, "fanout", durable=True)
    async with RabbitMQIntegrationEventBus(rabbitmq_url) as bus:
        with pytest.raises(
            InvalidTopologyError,
            match=f"exchange '{topic.name}'.*bind its exchange to this one.*'fanout'",
        ):
            await bus.send(topic, Numbered(1))


async def test_a_missing_permission_names_what_it_is_for(rabbitmq_server: RabbitMQServer) -> None:
    rabbitmq_server.ctl("add_user", "reader", "secret")
    rabbitmq_server.ctl("set_permissions", "reader", "^$", "^$", ".*")
    url = rabbitmq_server.url.replace("guest:guest", "reader:secret")
    async with RabbitMQIntegrationEventBus(url) as bus:
        with pytest.raises(InvalidTopologyError, match="exchange 'forbidden'.*permission"):
            await bus.send(Topic("forbidden"), Numbered(1))
        with pytest.raises(InvalidTopologyError, match="exchange 'forbidden'.*permission"):
            await bus.register(registration(Probe("reader"), Topic("forbidden")))
        assert bus.health().connected


async def test_reserved_names_are_a_clear_error(rabbitmq_url: str) -> None:
    async with RabbitMQIntegrationEventBus(rabbitmq_url) as bus:
        with pytest.raises(InvalidTopologyError, match="reserved"):
            await bus.send(Topic("amq.ours"), Numbered(1))


async def test_a_deleted_queue_is_made_again(
    bus: RabbitMQIntegrationEventBus, client: Client, topic: Topic, probe: Probe
) -> None:
    client.channel.queue_delete(f"{probe.name}@{topic.name}")

    async def arrives() -> bool:
        await bus.send(topic, Numbered(1))
        return bool(probe.handled)

    await eventually(arrives)


async def test_a_consumer_that_cannot_go_on_takes_the_process_down(
    rabbitmq_url: str, client: Client, topic: Topic, probe: Probe
) -> None:
    queue = f"{probe.name}@{topic.name}"
    bus = RabbitMQIntegrationEventBus(rabbitmq_url, [registration(probe, topic)])
    running = asyncio.create_task(bus.run(signals=()))
    await eventually(lambda: bus.health().healthy and bus.health().consumers)
    client.channel.queue_delete(queue)
    client.channel.queue_declare(queue, durable=True)
    with pytest.raises(ConsumerStoppedError) as raised:
        await asyncio.wait_for(running, 60)
    assert queue in str(raised.value.__cause__)


async def test_a_queue_that_does_not_answer_is_reported_once_with_the_cure(
    rabbitmq_server: RabbitMQServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a quorum queue without a leader, which a broker has that was killed at a bad moment."""
    topic, probe = Topic("unled"), Probe("unled")
    queue = "unled@unled:quarantine"
    process = f"whereis('%2F_{queue}')"
    attempts: list[str] = []
    caplog.set_level(logging.INFO)
    consume = Channel.consume

    async def counted(channel: Channel, queue: str, *args: Any, **options: Any) -> str:
        attempts.append(queue)
        return await consume(channel, queue, *args, **options)

    monkeypatch.setattr(Channel, "consume", counted)
    async with RabbitMQIntegrationEventBus(
        rabbitmq_server.url, [registration(probe, topic)], send_timeout=5
    ) as bus:
        rabbitmq_server.ctl("eval", f"sys:suspend({process}).")
        await asyncio.to_thread(rabbitmq_server.ctl, "close_all_connections", "by the test")
        attempts.clear()
        await eventually(lambda: len(attempts) > 2)
        health = bus.health()
        assert not health.healthy
        assert not health.connected
        assert (health.consumers[0].last_poll or 0) > 1
        await bus.send(topic, Numbered(1))
        assert set(attempts) == {queue}, "events are taken by a channel that comes to nothing"
        rabbitmq_server.ctl("eval", f"sys:resume({process}).")
        await eventually(lambda: bus.health().healthy and probe.numbers == [1])
        logged = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
        logged = [line for line in logged if "cannot be consumed" in line]
        assert len(logged) == 1
        assert f"{queue!r}: no answer within 5 s" in logged[0]
        assert f"rabbitmqctl delete_queue {queue}" in logged[0]
        assert sum("this is over: it cannot be consumed" in line for line in caplog.messages) == 1


async def test_a_queue_that_does_not_answer_at_startup_is_an_error_with_the_cure(
    rabbitmq_server: RabbitMQServer,
) -> None:
    bus = RabbitMQIntegrationEventBus(
        rabbitmq_server.url, [registration(Probe("mute"), Topic("mute"))], send_timeout=5
    )
    async with bus:
        pass
    process = "whereis('%2F_mute@mute')"
    rabbitmq_server.ctl("eval", f"sys:suspend({process}).")
    try:
        with pytest.raises(BusUnavailableError, match="delete_queue mute@mute`"):
            await bus.startup()
    finally:
        rabbitmq_server.ctl("eval", f"sys:resume({process}).")


async def test_a_deleted_retry_queue_is_made_again(
    rabbitmq_url: str, client: Client, topic: Topic
) -> None:
    failing = Probe(f"probe-{uuid4().hex[:8]}")

    async def fail_once(_: Numbered) -> None:
        if len(failing.arrivals) % 2:
            raise RuntimeError("once")

    failing.react = fail_once
    retry = RetryPolicy(delay=0.05, jitter=0, in_place=0)
    async with RabbitMQIntegrationEventBus(
        rabbitmq_url, [registration(failing, topic, retry=retry)]
    ) as bus:
        for handled in (1, 2):
            await bus.send(topic, Numbered(handled))
            await eventually(lambda: len(failing.handled), saw=lambda: failing.arrivals)
            failing.handled.clear()
            client.channel.queue_delete(f"{failing.name}@{topic.name}:retry:50ms")


async def test_a_full_queue_is_reported_to_senders(
    rabbitmq_server: RabbitMQServer,
) -> None:
    topic, gate = Topic("full"), asyncio.Event()
    probe = Probe("slow", lambda _: gate.wait())
    policy = '{"max-length":1,"overflow":"reject-publish"}'
    rabbitmq_server.ctl("set_policy", "full", "^slow@full$", policy, "--apply-to", "queues")
    async with RabbitMQIntegrationEventBus(
        rabbitmq_server.url, [registration(probe, topic)], shutdown_grace=0
    ) as bus:

        async def send_on() -> None:
            for number in range(500):
                await bus.send(topic, Numbered(number))

        with pytest.raises(SendOutcomeUnknownError, match="refused"):
            await send_on()
        gate.set()


async def test_what_amqp_cannot_carry_is_a_clear_error_and_harms_nothing(
    bus: RabbitMQIntegrationEventBus, topic: Topic, probe: Probe
) -> None:
    with pytest.raises(InvalidTopologyError, match="cannot be written in AMQP"):
        await bus.send(topic, Numbered(1), id="x" * 300)
    await bus.send(topic, Numbered(2))
    await eventually(lambda: probe.numbers == [2])


async def test_what_is_too_large_for_the_broker_is_reported_and_holds_up_nothing(
    rabbitmq_server: RabbitMQServer, caplog: pytest.LogCaptureFixture
) -> None:
    topic, probe = Topic("large"), Probe("of-large")
    large = Numbered(0, text="x" * LARGEST)
    async with RabbitMQIntegrationEventBus(
        rabbitmq_server.url, [registration(probe, topic)], max_body_size=2 * LARGEST
    ) as bus:
        logged = await asyncio.gather(
            bus.send(topic, Numbered(1)),
            bus.send(topic, large),
            bus.send(topic, Numbered(2)),
            bus.send(topic, large),
            return_exceptions=True,
        )
        assert logged[0] is logged[2] is None
        for error in (logged[1], logged[3]):
            assert isinstance(error, MessageTooLargeError)
            assert (error.topic, error.limit) == ("large", LARGEST)
        await eventually(lambda: set(probe.numbers) == {1, 2})
    assert len([line for line in caplog.messages if "opening another" in line]) == 1


@pytest.mark.parametrize("prefetch", [10, 300])
async def test_what_was_in_flight_at_shutdown_comes_back_in_order(
    rabbitmq_url: str, client: Client, topic: Topic, prefetch: int
) -> None:
    gate, count = asyncio.Event(), 2 * prefetch
    probe = Probe(f"probe-{uuid4().hex[:8]}", lambda _: gate.wait())
    bus = RabbitMQIntegrationEventBus(rabbitmq_url, [registration(probe, topic)], prefetch=prefetch)
    async with bus:
        await bus.send_many(topic, map(Numbered, range(count)))
        await eventually(lambda: probe.running)
        await bus.shutdown(grace=0)
    probe.react = None
    async with bus:
        await eventually(lambda: len(probe.numbers) == count)
    assert probe.numbers == list(range(count))


async def test_what_an_unregistered_consumer_had_in_flight_comes_back_in_order(
    rabbitmq_url: str, client: Client, topic: Topic
) -> None:
    gate, count = asyncio.Event(), 100
    probe = Probe(f"probe-{uuid4().hex[:8]}", lambda _: gate.wait())
    consumer = registration(probe, topic)
    async with RabbitMQIntegrationEventBus(
        rabbitmq_url, [consumer], prefetch=50, shutdown_grace=0
    ) as bus:
        await bus.send_many(topic, map(Numbered, range(count)))
        await eventually(lambda: probe.running)
        await bus.unregister(consumer)
        probe.react = None
        await bus.register(consumer)
        await eventually(lambda: len(probe.numbers) == count)
    assert probe.numbers == list(range(count))


async def test_where_another_consumes_one_that_is_stopped_takes_nothing_more(
    rabbitmq_url: str, client: Client, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of a busy broker that is silent for longer than 2 s it would else not wait for the answer.
    monkeypatch.setattr(_connection, "_ANSWER_TIMEOUT", 60)
    gate = asyncio.Event()
    name = f"probe-{uuid4().hex[:8]}"
    stopped, other = Probe(name, lambda _: gate.wait()), Probe(name)
    first = RabbitMQIntegrationEventBus(
        rabbitmq_url, [registration(stopped, topic)], send_timeout=60
    )
    await first.startup()
    await first.send(topic, Numbered(0))
    await eventually(lambda: stopped.running)
    async with RabbitMQIntegrationEventBus(rabbitmq_url, [registration(other, topic)]) as bus:
        stopping = asyncio.create_task(first.shutdown())
        await eventually(lambda: not _receives(first))
        await bus.send_many(topic, map(Numbered, range(1, 10)))
        await eventually(lambda: other.numbers == list(range(1, 10)))
        gate.set()
        await stopping
    assert stopped.numbers == [0]


def _receives(bus: RabbitMQIntegrationEventBus) -> bool:
    """Tell whether the driver has a consumer that the broker has not confirmed as cancelled."""
    channels = [
        channel for each in connections(bus) for channel in each._connection._channels.values()
    ]
    return any(channel.consumer_tags for channel in channels)


# --- interoperation -------------------------------------------------------------------------------


async def test_plain_json_without_headers_or_id_is_consumed_in_order(
    bus: RabbitMQIntegrationEventBus, client: Client, topic: Topic, probe: Probe
) -> None:
    for number in range(10):
        client.channel.basic_publish(topic.name, Numbered.type, BARE % number)
    await eventually(lambda: probe.numbers == list(range(10)))
    assert len({arrival.delivery.id for arrival in probe.arrivals}) == 10
    assert all(arrival.delivery.id for arrival in probe.arrivals)
    assert probe.attempts == [1] * 10


async def test_what_we_send_is_plain_json_persistent_with_its_id(
    bus: RabbitMQIntegrationEventBus, client: Client, topic: Topic
) -> None:
    queue = client.channel.queue_declare("", exclusive=True).method.queue
    client.channel.queue_bind(queue, topic.name, Numbered.type)
    await bus.send(topic, Numbered(1), key="k", headers={"x-own": "ö"})
    got: Any = client.channel.basic_get(queue, auto_ack=True)
    _, properties, body = got
    assert body == b'{"type":"events.contracts.numbered","version":1,"number":1,"key":"","text":""}'
    assert properties.delivery_mode == 2
    assert properties.content_type == "application/json"
    assert properties.type == Numbered.type
    assert properties.message_id == properties.headers["ce-id"]
    assert properties.headers["x-own"] == "ö"
    assert not [name for name in properties.headers if name.startswith("events-")]


async def test_foreign_headers_of_any_type_do_no_harm(
    bus: RabbitMQIntegrationEventBus, client: Client, topic: Topic, probe: Probe
) -> None:
    headers: Any = {
        "number": 1,
        "truth": True,
        "list": [1],
        "table": {"a": 1},
        "none": None,
        "b": b"x",
    }
    properties = pika.BasicProperties(message_id="m", headers=headers, expiration="60000")
    client.channel.basic_publish(topic.name, Numbered.type, BARE % 1, properties)
    await eventually(lambda: probe.numbers == [1])
    got = probe.arrivals[0].delivery
    assert got.id == "m"
    assert got.headers["number"] == "1"
    assert got.headers["truth"] == "true"


async def test_foreign_headers_come_through_a_retry(
    rabbitmq_url: str, client: Client, topic: Topic
) -> None:
    probe = Probe(f"probe-{uuid4().hex[:8]}")

    async def fail_once(_: Numbered) -> None:
        if len(probe.arrivals) == 1:
            raise RuntimeError("once")

    probe.react = fail_once
    retry = RetryPolicy(delay=0.05, jitter=0, in_place=0)
    async with RabbitMQIntegrationEventBus(rabbitmq_url, [registration(probe, topic, retry=retry)]):
        # The driver reads fractions and does not write them; other clients do.
        headers: Any = {"whole": 2**40, "fraction": "?", "list": ["?", {"deep": "?"}]}
        properties = pika.BasicProperties(message_id="m", headers=headers)
        with mock.patch.object(data, "encode_value", _encode_fractions):
            client.channel.basic_publish(topic.name, Numbered.type, BARE % 1, properties)
        await eventually(lambda: probe.numbers == [1])
    first, second = (arrival.delivery.headers for arrival in probe.arrivals)
    assert first == second
    assert (first["whole"], first["fraction"]) == (str(2**40), "1.5")


def _encode_fractions(pieces: list[bytes], value: Any, encode: Any = data.encode_value) -> int:
    """Write the driver's question marks as a double."""
    if value != "?":
        return int(encode(pieces, value))
    pieces.append(struct.pack(">cd", b"d", 1.5))
    return 9


# --- connections ----------------------------------------------------------------------------------


async def test_the_next_host_is_tried(rabbitmq_url: str, client: Client, topic: Topic) -> None:
    dead = f"amqp://guest:secret@127.0.0.1:{free_port()}/"
    async with RabbitMQIntegrationEventBus([dead, rabbitmq_url]) as bus:
        await bus.send(topic, Numbered(1))
        assert "secret" not in repr(bus)
        assert "***" in repr(bus)


@pytest.mark.parametrize("url", ["http://localhost", "amqp://u:secret@host:port/", ""])
def test_a_bad_url_is_reported_at_once_and_without_its_password(url: str) -> None:
    with pytest.raises(InvalidTopologyError) as raised:
        RabbitMQIntegrationEventBus(url)
    assert "secret" not in str(raised.value)


async def test_a_wrong_password_is_a_clear_error(rabbitmq_url: str) -> None:
    host = rabbitmq_url.rpartition("@")[2]
    # It is not tried for so long.
    bus = RabbitMQIntegrationEventBus(f"amqp://guest:wrong@{host}", connect_timeout=3600)
    with pytest.raises(BusUnavailableError) as raised:
        await bus.startup()
    assert "refused: " in str(raised.value)
    assert "wrong" not in str(raised.value)
    assert "uthentication" in str(raised.value) or "ACCESS_REFUSED" in str(raised.value)


async def test_one_line_is_logged_when_the_connection_is_lost_and_one_when_it_is_back(
    rabbitmq_server: RabbitMQServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pausing, "LOOK_EVERY", 0.01)  # so also within the outage
    name = f"RabbitMQ at {rabbitmq_server.url.replace(':guest@', ':***@')}"
    caplog.set_level(logging.INFO, logger="events.integration")
    consumer = registration(Probe("logged"), Topic("logged"))
    async with RabbitMQIntegrationEventBus(rabbitmq_server.url, [consumer]) as bus:
        assert caplog.messages == [f"{name} is connected"]
        caplog.clear()
        # Two connections, for one to publish and one to consume.
        await asyncio.to_thread(rabbitmq_server.ctl, "close_all_connections", "by the test")
        await eventually(lambda: any("again after" in line for line in caplog.messages))
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) == 2, lines
        assert lines[0].startswith(f"{name} lost its connection: ")
        assert "by the test" in lines[0]
        await eventually(lambda: bus.health().connected)


async def test_a_memory_alarm_holds_what_is_sent_but_not_what_is_acknowledged(
    rabbitmq_server: RabbitMQServer,
) -> None:
    topic, gate = Topic("alarm"), asyncio.Event()
    probe = Probe("alarmed", lambda _: gate.wait())
    async with RabbitMQIntegrationEventBus(
        rabbitmq_server.url, [registration(probe, topic)], send_timeout=5
    ) as bus:
        await bus.send_many(topic, map(Numbered, range(5)))
        await eventually(lambda: probe.running)
        rabbitmq_server.ctl("set_vm_memory_high_watermark", "0.00001")
        try:
            with pytest.raises(BusError):  # the broker tells only those that publish then
                await bus.send(topic, Numbered(5))
            with pytest.raises(BusUnavailableError, match="alarm"):
                await bus.send(topic, Numbered(6))
            assert not bus.health().connected, "nothing can be written"
            assert "alarm" in (bus.health().error or "")
            gate.set()
            await eventually(lambda: len(probe.handled) >= 5)
        finally:
            rabbitmq_server.ctl("set_vm_memory_high_watermark", "absolute", "2GB")

        async def sent() -> bool:
            try:
                await bus.send(topic, Numbered(7))
            except BusError:
                return False
            return True

        await eventually(sent)


# --- dead letters ---------------------------------------------------------------------------------


async def test_what_the_queue_itself_gives_up_is_a_dead_letter_too(
    rabbitmq_url: str,
    client: Client,
    topic: Topic,
    probe: Probe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_topology, "_LOOKED_AT", 1)
    queue = f"{probe.name}@{topic.name}"
    async with RabbitMQIntegrationEventBus(rabbitmq_url, [registration(probe, topic)]) as bus:
        await bus.unregister(bus.registrations[0])
        await bus.send(topic, Numbered(1))
        for _ in range(2):

            def taken() -> bool:
                method, _, _ = client.channel.basic_get(queue)
                if method is not None:
                    client.channel.basic_nack(method.delivery_tag, requeue=True)
                return method is not None

            await eventually(taken)
        (letter,) = await eventually(lambda: bus.dead_letters(probe))
        assert letter.reason == "crashed"
        assert letter.message.topic == topic.name
        await bus.register(registration(probe, topic))
        await bus.redrive(probe, [letter])
        await eventually(lambda: probe.numbers == [1])


async def test_dead_letters_are_looked_at_as_often_as_one_likes(
    bus: RabbitMQIntegrationEventBus, client: Client, topic: Topic, probe: Probe
) -> None:
    client.channel.basic_publish(topic.name, Numbered.type, b"no event")
    (letter,) = await eventually(lambda: bus.dead_letters(probe))
    for _ in range(25):  # RabbitMQ 4 drops what has come back 20 times, where nobody says otherwise
        assert await bus.dead_letters(probe) == [letter]


async def test_redrive_to_a_queue_that_is_gone_keeps_the_dead_letter(
    rabbitmq_url: str, client: Client, topic: Topic
) -> None:
    async def fail(_: Numbered) -> None:
        raise RuntimeError("always")

    probe = Probe(f"probe-{uuid4().hex[:8]}", fail)
    retry = RetryPolicy(attempts=1)
    async with RabbitMQIntegrationEventBus(
        rabbitmq_url, [registration(probe, topic, retry=retry)]
    ) as bus:
        await bus.send(topic, Numbered(1))
        (letter,) = await eventually(lambda: bus.dead_letters(probe))
        await bus.unregister(bus.registrations[0])
        client.channel.queue_delete(f"{probe.name}@{topic.name}")
        with pytest.raises(BusUnavailableError, match="queue .* does not exist"):
            await bus.redrive(probe, [letter])
        assert await bus.dead_letters(probe) == [letter]


async def test_two_may_read_dead_letters_at_once(
    bus: RabbitMQIntegrationEventBus, rabbitmq_url: str, topic: Topic, probe: Probe
) -> None:
    probe.react = _refuse
    bad = BARE.replace(b'"version":1', b'"version":99')
    with Client(rabbitmq_url) as client:
        for number in range(50):
            client.channel.basic_publish(topic.name, Numbered.type, bad % number)
    await eventually(lambda: _count(bus, probe, 50))
    async with RabbitMQIntegrationEventBus(rabbitmq_url) as other:
        pages = await asyncio.gather(
            *(each.dead_letters(probe, limit=60) for each in (bus, other) for _ in range(5))
        )
    assert [len(page) for page in pages] == [50] * 10


async def _refuse(_: Numbered) -> None:
    raise RuntimeError("no")


async def _count(bus: RabbitMQIntegrationEventBus, probe: Probe, count: int) -> bool:
    return len(await bus.dead_letters(probe)) == count
