"""What programs without this package publish, each with its own client: conformance 38."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import struct
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from uuid import uuid4

import aio_pika
import pytest
from nats.aio.client import Client as NatsClient
from redis.asyncio import Redis
from sqlalchemy import make_url

from events.errors import InvalidTopologyError
from events.integration import (
    DeadLetter,
    IntegrationEventBusRegistration,
    RetryPolicy,
    Topic,
    current_delivery,
)
from events.integration.cloudevents import attribute
from events.integration.implementation.nats._names import type_subject
from events.integration.implementation.redis import RedisPubSubIntegrationEventBus
from events.integration.message import Message
from events.testing import eventually
from events.testing.contracts import Harness, Numbered, Probe
from tests.brokers.nats_server import plain_url
from tests.brokers.rabbitmq_server import RabbitMQHarness, rabbitmq_url
from tests.brokers.redis_server import redis_url
from tests.contracts.nats_harness import NatsHarness
from tests.contracts.sqlalchemy_inbox import created
from tests.contracts.test_redis_streams_bus import StreamsHarness

__all__ = ["rabbitmq_url"]

CONTENT_TYPE = "application/cloudevents+json"


class Foreign(Protocol):
    """A producer on some broker, that gives each message an id of its client's own."""

    def new_harness(self) -> Harness: ...

    async def publish(self, topic: str, body: bytes, headers: Mapping[str, str]) -> None: ...


class AioPika:
    """Sends a random `message_id` with each message, as FastStream does by default."""

    message_id = staticmethod(lambda: uuid4().hex)

    def __init__(self, url: str, channel: Any) -> None:
        self.url, self.channel = url, channel

    def new_harness(self) -> Harness:
        return RabbitMQHarness(self.url)

    async def publish(self, topic: str, body: bytes, headers: Mapping[str, str]) -> None:
        table: dict[str, Any] = dict(headers)
        properties: dict[str, Any] = {
            name: table.pop(name.replace("_", "-"), None)
            for name in ("content_type", "content_encoding")
        }
        message = aio_pika.Message(
            body, headers=table, message_id=self.message_id(), type=table.pop("amqp-type", None),
            **properties,
        )  # fmt: skip
        exchange = await self.channel.get_exchange(topic)
        await exchange.publish(message, routing_key=Numbered.type)


class Nats:
    def __init__(self, client: NatsClient) -> None:
        self.client = client

    def new_harness(self) -> Harness:
        return NatsHarness()

    async def publish(self, topic: str, body: bytes, headers: Mapping[str, str]) -> None:
        sent = {"Nats-Msg-Id": uuid4().hex, **headers}
        subject = type_subject(topic, Numbered.type)
        await self.client.jetstream().publish(subject, body, headers=sent)


class RedisPy:
    def __init__(self, client: Any) -> None:
        self.client = client

    def new_harness(self) -> Harness:
        return StreamsHarness()

    async def publish(self, topic: str, body: bytes, headers: Mapping[str, str]) -> None:
        await self.client.xadd(topic, {"data": body, **headers})


@pytest.fixture(params=["aio-pika", "nats", "redis"])
async def foreign(request: pytest.FixtureRequest) -> AsyncGenerator[Foreign]:
    async with AsyncExitStack() as stack:
        if request.param == "aio-pika":
            url = request.getfixturevalue("rabbitmq_url")
            connection = await stack.enter_async_context(await aio_pika.connect(url))
            yield AioPika(url, await connection.channel())
        elif request.param == "nats":
            client = NatsClient()
            await client.connect(plain_url())
            stack.push_async_callback(client.close)
            yield Nats(client)
        else:
            yield RedisPy(await stack.enter_async_context(Redis.from_url(redis_url())))


@pytest.fixture
async def harness(foreign: Foreign) -> AsyncGenerator[Harness]:
    harness = foreign.new_harness()
    yield harness
    await harness.aclose()


@pytest.fixture
def topic() -> Topic:
    return Topic(f"foreign-{uuid4().hex[:8]}")


def attributes(id: str = "1", source: str = "/orders") -> dict[str, Any]:
    return {"specversion": "1.0", "id": id, "source": source, "type": Numbered.type}


def structured(number: int, **more: Any) -> bytes:
    return json.dumps({**attributes(), **more, "data": {"number": number}}).encode()


def binary(number: int, **given: str) -> tuple[bytes, dict[str, str]]:
    headers = {f"ce-{name}": value for name, value in {**attributes(), **given}.items()}
    return b'{"number":%d}' % number, headers


def enveloped(number: int, content_type: str | None, **given: str) -> tuple[bytes, dict[str, str]]:
    headers = {} if content_type is None else {"content-type": content_type}
    return structured(number, **given), headers


def compressed(number: int, **given: str) -> tuple[bytes, dict[str, str]]:
    headers = {"content-type": CONTENT_TYPE, "content-encoding": "gzip"}
    return gzip.compress(structured(number, **given), mtime=0), headers


MODES: Mapping[str, Callable[..., tuple[bytes, dict[str, str]]]] = {
    "binary": binary,
    "structured": partial(enveloped, content_type=CONTENT_TYPE),
    "structured, said to be JSON": partial(enveloped, content_type="application/json"),
    "structured, no headers": partial(enveloped, content_type=None),
    "structured, compressed": compressed,
}


def registration(probe: Probe, topic: Topic, **options: Any) -> IntegrationEventBusRegistration:
    return IntegrationEventBusRegistration(probe, topic, [Numbered], **options)


@pytest.mark.parametrize("mode", MODES)
async def test_an_inbox_handles_what_is_sent_twice_once_and_what_has_another_source_too(
    foreign: Foreign, harness: Harness, topic: Topic, tmp_path: Path, mode: str
) -> None:
    url = make_url(f"sqlite+aiosqlite:///{tmp_path}/inbox.db")
    order = str(uuid4())  # of which two services tell
    async with created(url) as database:
        bus = harness.new_bus(middlewares=[database.inbox])
        probe = Probe(f"{topic.name}-reader", lambda event: database.write(event.number))
        await bus.register(registration(probe, topic))
        async with bus:
            for number, source in ((1, "/orders"), (1, "/orders"), (2, "/payments")):
                body, headers = MODES[mode](number, id=order, source=source)
                await foreign.publish(topic.name, body, headers)
            inbox = database.inbox
            await eventually(lambda: (inbox.handled, inbox.duplicates) == (2, 1))
        assert await database.effects() == [1, 2]
        assert {arrival.delivery.id for arrival in probe.arrivals} == {order}


@pytest.mark.parametrize("mode", MODES)
async def test_log_dead_letter_and_redrive_have_the_cloudevents_id(
    foreign: Foreign,
    harness: Harness,
    topic: Topic,
    mode: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail_at_first(_: Numbered) -> None:
        if len(probe.arrivals) == 1:
            raise ValueError("no")

    probe = Probe(f"{topic.name}-reader", fail_at_first)
    bus = harness.new_bus()
    await bus.register(registration(probe, topic, retry=RetryPolicy(attempts=1)))
    async with bus:
        await foreign.publish(topic.name, *MODES[mode](7, id="order-7"))
        await eventually(lambda: "retries-exhausted" in caplog.text)
        letters = await eventually(lambda: bus.dead_letters(probe))
        assert [letter.message.id for letter in letters] == ["order-7"]
        assert letters[0].message.body == MODES[mode](7, id="order-7")[0]
        await bus.redrive(probe, [letters[0].id])
        await eventually(lambda: probe.numbers == [7])
    assert {arrival.delivery.id for arrival in probe.arrivals} == {"order-7"}
    (given_up,) = [r for r in caplog.records if "gives up" in r.message]
    assert vars(given_up)["event_id"] == "order-7"


async def test_names_of_headers_are_read_in_any_case(
    foreign: Foreign, harness: Harness, topic: Topic
) -> None:
    body, headers = binary(1, id="order-7")
    probe = Probe(f"{topic.name}-reader")
    bus = harness.new_bus()
    await bus.register(registration(probe, topic))
    async with bus:
        for named in (str.upper, str.title):
            given = {named(name): value for name, value in headers.items()}
            await foreign.publish(topic.name, body, given)
        await eventually(lambda: probe.numbers == [1, 1])
    for arrival in probe.arrivals:
        assert arrival.delivery.id == "order-7"
        assert arrival.delivery.headers.items() >= headers.items()


async def test_attributes_are_read_percent_encoded_or_not(
    foreign: Foreign, harness: Harness, topic: Topic
) -> None:
    probe = Probe(f"{topic.name}-reader")
    bus = harness.new_bus()
    await bus.register(registration(probe, topic))
    async with bus:
        for given in ("a%20b", '"a b"', "a b"):
            body, headers = binary(1, id=given, correlationid=given)
            await foreign.publish(topic.name, body, headers)
        await eventually(lambda: len(probe.arrivals) == 3)
    found = {(each.delivery.id, each.delivery.correlation_id) for each in probe.arrivals}
    assert found == {("a b", "a b")}


async def test_gzip_is_read_within_the_limit_for_what_comes_out(
    foreign: Foreign, harness: Harness, topic: Topic
) -> None:
    probe = Probe(f"{topic.name}-reader")
    bus = harness.new_bus(max_body_size=10_000)
    await bus.register(registration(probe, topic))
    async with bus:
        for number, text in ((1, "x" * 9_000), (2, "x" * 11_000), (3, "")):
            body = gzip.compress(json.dumps({"number": number, "text": text}).encode())
            headers = binary(0, id=str(number))[1] | {"content-encoding": "gzip"}
            await foreign.publish(topic.name, body, headers)
        await foreign.publish(topic.name, b"x", binary(0)[1] | {"content-encoding": "br"})
        await eventually(lambda: probe.numbers == [1, 3])
        while len(letters := await bus.dead_letters(probe)) < 2:
            await asyncio.sleep(0.01)
    assert [(each.reason, each.message.id) for each in letters] == [
        ("too-large", "2"),
        ("undecodable", "1"),
    ]
    assert "only gzip is supported" in letters[1].error


@pytest.mark.parametrize("foreign", ["aio-pika", "nats"], indirect=True)
async def test_what_names_no_type_has_the_one_it_was_routed_by_at_each_attempt(
    foreign: Foreign, harness: Harness, topic: Topic
) -> None:
    async def fail_while_it_is_new(_: Numbered) -> None:
        if len(probe.arrivals) <= 2:
            raise ValueError("no")

    probe = Probe(f"{topic.name}-reader", fail_while_it_is_new)
    bus = harness.new_bus()
    through_the_broker = RetryPolicy(attempts=2, delay=0.02, in_place=0)
    await bus.register(registration(probe, topic, retry=through_the_broker))
    async with bus:
        await foreign.publish(topic.name, b'{"number":1}', {})
        letters = await eventually(lambda: bus.dead_letters(probe))
        assert [(each.reason, each.message.type) for each in letters] == [
            ("retries-exhausted", Numbered.type)
        ]
        await bus.redrive(probe, letters)
        await eventually(lambda: probe.numbers == [1])
        # A field of its own that is called `type` is no description.
        await foreign.publish(topic.name, b'{"number":2,"type":"card"}', {})
        await foreign.publish(topic.name, b'{"number":3,"type":"card","version":"9"}', {})
        body = gzip.compress(b'{"number":4}')
        await foreign.publish(topic.name, body, {"content-encoding": "gzip"})
        await eventually(lambda: probe.numbers == [1, 2, 3, 4])
        assert not await bus.dead_letters(probe)
    assert probe.attempts == [1, 2, 1, 1, 1, 1]
    assert {arrival.delivery.headers["ce-type"] for arrival in probe.arrivals} == {Numbered.type}


@pytest.mark.parametrize("foreign", ["aio-pika", "nats"], indirect=True)
async def test_what_describes_itself_is_not_what_it_was_routed_by(
    foreign: Foreign, harness: Harness, topic: Topic
) -> None:
    probe = Probe(f"{topic.name}-reader")
    bus = harness.new_bus()
    await bus.register(registration(probe, topic))
    async with bus:
        await foreign.publish(topic.name, b'{"number":1,"type":"another","version":1}', {})
        await foreign.publish(topic.name, *_with(binary(2), {"ce-type": "another"}))
        await foreign.publish(topic.name, structured(3, type="another"), {})
        await foreign.publish(topic.name, b"[1]", {})
        await foreign.publish(topic.name, *binary(4))
        await eventually(lambda: probe.numbers == [4])
        letters = await eventually(lambda: bus.dead_letters(probe))
    assert [each.message.body for each in letters] == [b"[1]"]
    assert "it is a JSON array" in letters[0].error


# --- NATS -------------------------------------------------------------------------------------


@pytest.mark.parametrize("foreign", ["nats"], indirect=True)
async def test_a_dead_letter_with_a_header_status_is_found_among_others(
    foreign: Foreign, harness: Harness, topic: Topic
) -> None:
    async def all_three() -> Sequence[DeadLetter]:
        letters = await bus.dead_letters(probe)
        return letters if len(letters) == 3 else ()

    probe = Probe(f"{topic.name}-reader")
    bus = harness.new_bus()
    await bus.register(registration(probe, topic))
    async with bus:
        for number, status in ("1", {}), ("2", {"Status": "404"}), ("3", {}):
            await foreign.publish(topic.name, b"no JSON", binary(0, id=number)[1] | status)
        letters = await eventually(all_three)
    assert {letter.message.id for letter in letters} == {"1", "2", "3"}
    assert {letter.message.headers.get("status") for letter in letters} == {"404", None}


async def test_a_header_whose_name_has_a_line_break_comes_with_its_dead_letter(
    topic: Topic,
) -> None:
    """The server takes what nats-py does not send."""
    probe = Probe(f"{topic.name}-reader")
    async with NatsHarness().new_bus() as bus:
        await bus.register(registration(probe, topic))
        server = urlsplit(plain_url())
        reader, writer = await asyncio.open_connection(server.hostname, server.port)
        subject, headers = type_subject(topic.name, Numbered.type), b"NATS/1.0\r\na\nb: c\r\n\r\n"
        sizes = f"{len(headers)} {len(headers) + 3}"
        writer.write(f'CONNECT {{"headers":true}}\r\nHPUB {subject} {sizes}\r\n'.encode())
        writer.write(headers + b"[1]\r\nPING\r\n")
        await reader.readuntil(b"PONG")
        writer.close()
        await writer.wait_closed()
        (letter,) = await eventually(lambda: bus.dead_letters(probe))
    assert letter.message.headers["a b"] == "c"


async def test_headers_that_nats_cannot_carry_are_refused_for_good() -> None:
    """A relay parks the row; as if NATS were away, it would wait for ever."""
    async with NatsHarness().new_bus() as bus:
        message = Message("orders", "order.paid", "id-1", b"{}", {"a:b": "c"})
        (outcome,) = await bus.forward([message])
    assert isinstance(outcome, InvalidTopologyError)
    assert "a:b" in str(outcome)


# --- RabbitMQ ---------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["ce-", "cloudEvents_", "cloudEvents:", "CLOUDEVENTS_"])
@pytest.mark.parametrize("foreign", ["aio-pika"], indirect=True)
async def test_the_prefixes_of_the_amqp_binding_are_read(
    foreign: Foreign, harness: Harness, topic: Topic, prefix: str
) -> None:
    probe = Probe(f"{topic.name}-reader")
    bus = harness.new_bus()
    await bus.register(registration(probe, topic))
    async with bus:
        headers = {f"{prefix}{name}": value for name, value in attributes(id="a b").items()}
        await foreign.publish(topic.name, b'{"number":7}', headers)
        await eventually(lambda: probe.numbers == [7])
    (arrival,) = probe.arrivals
    assert arrival.delivery.id == "a b"
    assert arrival.delivery.headers["ce-source"] == "/orders"


@pytest.mark.parametrize("foreign", ["aio-pika"], indirect=True)
@pytest.mark.parametrize("prefix", ["cloudEvents_", "ce-"])
async def test_attributes_that_a_client_writes_as_bytes_are_read(
    foreign: Foreign, harness: Harness, topic: Topic, prefix: str
) -> None:
    probe = Probe(f"{topic.name}-reader")
    bus = harness.new_bus()
    await bus.register(registration(probe, topic))
    async with bus:
        given = attributes(id="7", source="/größe")
        headers: dict[str, Any] = {f"{prefix}{n}": bytearray(v.encode()) for n, v in given.items()}
        headers["x-raw"] = bytearray(b"\xff")
        await foreign.publish(topic.name, b'{"number":7}', headers)
        await eventually(lambda: probe.numbers == [7])
    (arrival,) = probe.arrivals
    assert arrival.delivery.id == "7"
    assert attribute(arrival.delivery.headers, "source") == "/größe"
    assert "x-raw" not in arrival.delivery.headers


@pytest.mark.parametrize("foreign", ["aio-pika"], indirect=True)
async def test_amqps_type_counts_where_nothing_else_says_it_and_is_no_name_of_a_class(
    foreign: Foreign, harness: Harness, topic: Topic
) -> None:
    probe = Probe(f"{topic.name}-reader")
    bus = harness.new_bus()
    await bus.register(registration(probe, topic))
    async with bus:
        flat = b'{"type":"%b","version":1,"number":1}' % Numbered.type.encode()
        await foreign.publish(topic.name, flat, {"amqp-type": "SomeClass"})
        await foreign.publish(topic.name, structured(2), {"amqp-type": "SomeClass"})
        await foreign.publish(topic.name, *_with(binary(3), {"amqp-type": "SomeClass"}))
        await foreign.publish(topic.name, b'{"number":4}', {"amqp-type": Numbered.type})
        await foreign.publish(topic.name, b'{"number":5}', {"amqp-type": "SomeClass"})
        await eventually(lambda: probe.numbers == [1, 2, 3, 4, 5])
        assert not await bus.dead_letters(probe)


async def test_the_documented_bindings_carry_both_ways_with_an_exchange_of_another_type(
    rabbitmq_url: str, topic: Topic
) -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/migrate.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"^```python no-run\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    old = f"{topic.name}-old"
    for documented, ours in (
        ("amqp://guest:guest@localhost:5672/", rabbitmq_url),
        ('"shop.events"', f'"{topic.name}"'),
        ('"shop"', f'"{old}"'),
        ("order.placed", Numbered.type),
    ):
        assert documented in snippet
        snippet = snippet.replace(documented, ours)
    harness = RabbitMQHarness(rabbitmq_url)
    probe = Probe(f"{topic.name}-reader")
    bus = harness.new_bus()
    await bus.register(registration(probe, topic))
    async with await aio_pika.connect(rabbitmq_url) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange(old, "topic", durable=True)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(exchange, routing_key=Numbered.type)
        await asyncio.to_thread(exec, snippet)
        async with bus:
            await exchange.publish(aio_pika.Message(b'{"number":1}'), routing_key=Numbered.type)
            await eventually(lambda: probe.numbers == [1])
            await bus.send(topic, Numbered(2))
            await eventually(lambda: probe.numbers == [1, 2])
        got = [await queue.get(no_ack=True, timeout=60) for _ in range(2)]
        assert [json.loads(each.body)["number"] for each in got] == [1, 2]
        assert await queue.get(no_ack=True, fail=False) is None
        await exchange.delete()
    await harness.aclose()


@pytest.mark.parametrize("message_id", [None, "1"])
async def test_the_name_of_a_queue_is_no_type(
    rabbitmq_url: str, topic: Topic, message_id: str | None
) -> None:
    """It would not be wanted, so that the message would be skipped: no error would tell of it."""
    harness = RabbitMQHarness(rabbitmq_url)
    probe = Probe(f"{topic.name}-reader")
    bus = harness.new_bus()
    await bus.register(registration(probe, topic))
    queue = f"{probe.name}@{topic.name}"
    async with bus, await aio_pika.connect(rabbitmq_url) as connection:
        channel = await connection.channel()
        message = aio_pika.Message(b'{"number":1}', message_id=message_id)
        await channel.default_exchange.publish(message, routing_key=queue)
        for _ in range(2):  # after a redrive as before it
            letters = await eventually(lambda: bus.dead_letters(probe))
            assert [each.reason for each in letters] == ["undecodable"]
            assert "have its producer put `type` and `version` into the body" in letters[0].error
            await bus.redrive(probe, letters)
    await harness.aclose()


def _with(message: tuple[bytes, dict[str, str]], more: dict[str, str]) -> Any:
    return message[0], message[1] | more


@pytest.mark.parametrize("foreign", ["aio-pika"], indirect=True)
async def test_one_id_of_two_sources_is_two_events_when_the_connection_is_lost(
    foreign: Foreign, harness: Harness, topic: Topic
) -> None:
    """Both run, the connection is cut, one fails: what becomes of it must not settle the other."""
    foreign.message_id = lambda: "1"  # type: ignore[attr-defined]
    go_on = asyncio.Event()

    async def fail_for_orders(_: Numbered) -> None:
        delivery = current_delivery()
        assert delivery is not None
        await go_on.wait()
        if delivery.headers["ce-source"] == "/orders":
            raise ValueError("no")

    probe = Probe(f"{topic.name}-reader", fail_for_orders)
    bus = harness.new_bus()
    once = RetryPolicy(attempts=1)
    await bus.register(registration(probe, topic, concurrency=2, retry=once))
    async with bus:
        for source in ("/orders", "/payments"):
            await foreign.publish(topic.name, *binary(1, source=source))
        await eventually(lambda: len(probe.running) == 2)
        await harness.lose_connection(bus)
        await eventually(lambda: bus.health().connected)
        go_on.set()
        letters = await eventually(lambda: bus.dead_letters(probe))
        assert [letter.message.headers["ce-source"] for letter in letters] == ["/orders"]
    assert sorted(each.delivery.headers["ce-source"] for each in probe.arrivals) == [
        "/orders",
        "/payments",
    ]


# --- Redis ------------------------------------------------------------------------------------


def frame(body: bytes, headers: Mapping[str, str]) -> bytes:
    """Write what FastStream 0.7 sends, after its documentation."""
    head = struct.pack(">H", len(headers))
    for text in (each for header in headers.items() for each in header):
        head += struct.pack(">H", len(text.encode())) + text.encode()
    start = 8 + 2 + 8
    places = struct.pack(">HII", 1, start, start + len(head))
    return b"\x89BIN\r\n\x1a\n" + places + head + body


FASTSTREAM = {"correlation_id": "c", "content-type": "application/json"}


@pytest.mark.parametrize("foreign", ["redis"], indirect=True)
async def test_frames_of_faststream_in_a_stream_are_read(
    foreign: Foreign, harness: Harness, topic: Topic
) -> None:
    flat = b'{"number":%d,"type":"events.contracts.numbered","version":1}'
    probe = Probe(f"{topic.name}-reader")
    bus = harness.new_bus()
    await bus.register(registration(probe, topic))
    async with bus, Redis.from_url(redis_url()) as client:
        body, headers = binary(2, id="2")
        for each in (frame(flat % 1, FASTSTREAM), frame(body, headers | FASTSTREAM)):
            await client.xadd(topic.name, {"__data__": each})
        await eventually(lambda: probe.numbers == [1, 2])
    assert probe.arrivals[0].delivery.headers == FASTSTREAM
    assert probe.arrivals[1].delivery.id == "2"


async def test_frames_of_faststream_in_a_channel_are_read(topic: Topic) -> None:
    flat = b'{"number":1,"type":"events.contracts.numbered","version":1}'
    probe = Probe(f"{topic.name}-reader")
    bus = RedisPubSubIntegrationEventBus(redis_url(), [registration(probe, topic)])
    async with bus, Redis.from_url(redis_url()) as client:
        body, headers = binary(2, id="2")
        for each in (flat, frame(flat, FASTSTREAM), frame(body, headers), structured(3)):
            await client.publish(topic.name, each)
        await eventually(lambda: probe.numbers == [1, 1, 2, 3])
    assert [arrival.delivery.id for arrival in probe.arrivals][2:] == ["2", "1"]


@pytest.mark.parametrize("foreign", ["redis"], indirect=True)
async def test_an_entry_without_data_says_what_is_missing(
    foreign: Foreign, harness: Harness, topic: Topic
) -> None:
    probe = Probe(f"{topic.name}-reader")
    bus = harness.new_bus()
    await bus.register(registration(probe, topic))
    async with bus, Redis.from_url(redis_url()) as client:
        await client.xadd(topic.name, {"payload": "{}"})
        letters = await eventually(lambda: bus.dead_letters(probe))
    assert "as the field `data`" in letters[0].error
