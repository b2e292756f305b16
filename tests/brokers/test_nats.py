"""What is NATS' own: names, headers, streams that are there already, clients that were passed in."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from events.errors import (
    ConsumerStoppedError,
    InvalidTopologyError,
    MessageTooLargeError,
)
from events.integration import IntegrationEventBusRegistration, RetryPolicy, Topic
from events.integration.brokering.urls import masked
from events.integration.implementation.nats import (
    NatsIntegrationEventBus,
    NatsTransport,
    _driver,
    _link,
    _wire,
)
from events.integration.implementation.nats._names import token, type_in, type_subject
from events.integration.message import Message, current_delivery
from events.testing import eventually
from events.testing.contracts import Numbered, Other, Probe
from tests.brokers.nats_server import plain_url

NUMBERED = "events.contracts.numbered"


@pytest.fixture
async def client() -> AsyncGenerator[Client]:
    client = Client()
    await client.connect(plain_url())
    yield client
    await client.close()


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid4().hex[:8]}"


@pytest.fixture
async def topic(client: Client, prefix: str) -> AsyncGenerator[Topic]:
    """A topic whose name is none for a stream; what it and the prefix leave behind is removed."""
    name = f"Größe {prefix}.v1 > *"
    yield Topic(name)
    for stream in (token("Topic", name), f"{prefix}@dead-letters", f"{prefix}@attempts"):
        try:
            await client.jsm().delete_stream(stream)
        except NatsError:
            continue


def bus_with(prefix: str, *registrations: Any, **options: Any) -> NatsIntegrationEventBus:
    settings: dict[str, Any] = {"url": plain_url(), "prefix": prefix, "lease": 2, **options}
    return NatsIntegrationEventBus(registrations=registrations, **settings)


def registered(probe: Probe, topic: Topic, **options: Any) -> IntegrationEventBusRegistration:
    return IntegrationEventBusRegistration(probe, topic, [Numbered], **options)


# --- names ------------------------------------------------------------------------------------


@given(st.text(min_size=1, max_size=20))
def test_names_are_encoded_for_the_server_and_apart(name: str) -> None:
    encoded = token("Topic", name)
    assert set(encoded) <= set("=-_0123456789") | set(map(chr, range(65, 91))) | set(
        map(chr, range(97, 123))
    )
    assert type_in("stream", f"stream.{encoded}") == name


@given(st.text(min_size=1, max_size=20))
def test_a_type_is_read_back_from_its_subject(name: str) -> None:
    subject = type_subject("stream", name)
    assert type_in("stream", subject) == name
    assert all(subject.split("."))


@pytest.mark.parametrize(
    ("subject", "name"), [("users.=FF", "\ufffd"), ("users.=2E\u6f22", ".\u6f22"), ("users.=", "=")]
)
def test_any_subject_of_others_is_read_as_some_type(subject: str, name: str) -> None:
    assert type_in("users", subject) == name


def test_plain_names_stay_as_they_are() -> None:
    assert token("Topic", "user-events_2") == "user-events_2"
    assert type_subject("users", "user.registered") == "users.user.registered"
    assert token("Topic", "orders.eu") == "orders=2Eeu"


def test_a_name_that_gets_too_long_is_refused() -> None:
    with pytest.raises(InvalidTopologyError, match="limit is 255"):
        token("Topic", "ü" * 100)


async def test_any_name_works(topic: Topic, prefix: str) -> None:
    probe = Probe("the consumer's name, with a . and a *")
    async with bus_with(prefix, registered(probe, topic)) as bus:
        await bus.send(topic, Numbered(1))
        await eventually(lambda: probe.numbers == [1])


# --- headers ----------------------------------------------------------------------------------

header_names = st.from_regex(r"[a-z0-9-]{1,10}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.dictionaries(header_names, texts), st.text(max_size=5))
def test_headers_survive_any_text(headers: Mapping[str, str], key: str) -> None:
    block = _wire.outgoing(headers, "id-1", key)
    assert block.isascii()
    received = _wire.parse_block(block)
    assert _wire.block(received) == block
    read = _wire.users(received)
    assert read == headers
    if "ce-partitionkey" not in headers:
        assert _wire.own_key(received, read) == key


def test_one_id_of_two_sources_is_no_duplicate_to_the_server() -> None:
    def sent(id: str, headers: dict[str, str]) -> str:
        return _wire.parse_block(_wire.outgoing(headers, id, None))["Nats-Msg-Id"]

    ours = "0190a3c4-5b6d-7e8f-9a0b-1c2d3e4f5a6b"
    assert sent(ours, {"ce-id": ours, "ce-source": "/a"}) == ours
    assert sent("7", {}) == "7"
    foreign = [sent("7", {"ce-id": "7", "ce-source": source}) for source in ("/a", "/b", "/\xf6")]
    assert len(set(foreign)) == 3


def test_headers_of_others_are_taken_as_they_are() -> None:
    foreign = {"Content-Type": "application/json", "X-Share": "100%25", "Nats-Msg-Id": "7"}
    read = _wire.users(foreign)
    assert read == {"content-type": "application/json", "x-share": "100%25"}
    assert _wire.id_of(foreign, read, b"", "otherwise") == "7"
    assert _wire.id_of({}, {}, b"", "otherwise") == "otherwise"


def test_no_header_can_be_taken_for_two() -> None:
    block = _wire.block({"a": "1\r\nb: 2", "c": "3\n"})
    assert _wire.parse_block(block) == {"a": "1  b: 2", "c": "3"}
    for name in ("a\r\nb", "a\n", "a:b"):
        with pytest.raises(InvalidTopologyError, match="cannot carry"):
            _wire.block({name: "1"})


@pytest.mark.parametrize(
    ("block", "headers"),
    [
        (b"NATS/1.0 503\r\n\r\n", {"Status": "503", "Description": ""}),
        (
            b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Stream: 7\r\n\r\n",
            {"Status": "100", "Description": "Idle Heartbeat", "Nats-Last-Stream": "7"},
        ),
        (b"NATS/1.0\r\na:b:c\r\nd : \t e \r\n\r\n", {"a": "b:c", "d": "e"}),
        ("NATS/1.0\r\na: ü\r\n\r\n".encode(), {"a": "ü"}),
        (b"NATS/1.0\r\na: \xff\r\nnonsense\r\n\r\n", {"a": "\ufffd"}),
    ],
)
def test_headers_are_read_as_the_server_sends_them(block: bytes, headers: dict[str, str]) -> None:
    assert _wire.parse_block(block) == headers


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("$JS.ACK.s.c.3.12.40.1700.5", (12, "1700", 3)),
        ("$JS.ACK.domain.hash.s.c.3.12.40.1700.5", (12, "1700", 3)),
        ("$JS.ACK.domain.hash.s.c.3.12.40.1700.5.random", (12, "1700", 3)),
    ],
)
def test_both_forms_of_an_ack_subject_are_read(reply: str, expected: tuple[Any, ...]) -> None:
    assert _wire.position(reply) == expected


# --- other programs ---------------------------------------------------------------------------


async def test_plain_json_without_headers_is_consumed(
    client: Client, topic: Topic, prefix: str
) -> None:
    probe = Probe("partner")
    async with bus_with(prefix, registered(probe, topic)):
        subject = f"{token('Topic', topic.name)}.{NUMBERED}"
        body = {"type": NUMBERED, "version": 1, "number": 7}
        await client.jetstream().publish(subject, json.dumps(body).encode())
        await eventually(lambda: probe.numbers == [7])
    assert probe.arrivals[0].delivery.id


async def test_what_we_send_is_plain_json_with_cloudevents_headers(
    client: Client, topic: Topic, prefix: str
) -> None:
    async with bus_with(prefix) as bus:
        await bus.send(topic, Numbered(7), id="0190a3c4-5b6d-7e8f-9a0b-1c2d3e4f5a6b")
    stream = token("Topic", topic.name)
    message = await client.jsm().get_last_msg(stream, f"{stream}.{NUMBERED}")
    assert message.data is not None
    assert message.headers is not None
    assert json.loads(message.data)["number"] == 7
    assert message.headers["ce-type"] == NUMBERED
    assert message.headers["ce-id"] == message.headers["Nats-Msg-Id"]


# --- what is there already --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "difference"),
    [
        ({"storage": "memory"}, "storage is 'memory'"),
        ({"retention": "workqueue"}, "retention is 'workqueue'"),
        ({"subjects": ["elsewhere-{prefix}.>"]}, "do not include"),
        ({"max_msgs_per_subject": 1}, "keeps 1 messages of a subject"),
    ],
)
async def test_a_stream_that_does_not_fit_is_refused_with_the_difference(
    client: Client, topic: Topic, prefix: str, config: dict[str, Any], difference: str
) -> None:
    name = token("Topic", topic.name)
    settings: dict[str, Any] = {"name": name, "subjects": [f"{name}.>"], **config}
    settings["subjects"] = [subject.format(prefix=prefix) for subject in settings["subjects"]]
    await client.jetstream().add_stream(**settings)
    bus = bus_with(prefix, registered(Probe("reader"), topic))
    with pytest.raises(InvalidTopologyError, match=difference):
        await bus.startup()
    async with bus_with(prefix) as sender:
        with pytest.raises(InvalidTopologyError, match=difference):
            await sender.send(topic, Numbered(1))


async def test_a_stream_that_fits_is_used_as_it_is(
    client: Client, topic: Topic, prefix: str
) -> None:
    name, probe = token("Topic", topic.name), Probe("reader")
    await client.jetstream().add_stream(
        name=name, subjects=[f"{name}.>", f"{prefix}.also"], max_age=60
    )
    async with bus_with(prefix, registered(probe, topic)) as bus:
        await bus.send(topic, Numbered(1))
        await eventually(lambda: probe.numbers == [1])
    assert (await client.jsm().stream_info(name)).config.max_age == 60


async def test_another_stream_with_the_topic_s_subjects_is_named(
    client: Client, topic: Topic, prefix: str
) -> None:
    name = token("Topic", topic.name)
    await client.jetstream().add_stream(name=f"{prefix}@attempts", subjects=[f"{name}.>"])
    with pytest.raises(InvalidTopologyError, match="another stream"):
        await bus_with(prefix, registered(Probe("reader"), topic)).startup()


async def test_a_push_consumer_of_that_name_is_refused(
    client: Client, topic: Topic, prefix: str
) -> None:
    name = token("Topic", topic.name)
    await client.jetstream().add_stream(name=name, subjects=[f"{name}.>"])
    await client.jsm().add_consumer(name, durable_name="reader", deliver_subject=f"{prefix}.push")
    with pytest.raises(InvalidTopologyError, match="push consumer"):
        await bus_with(prefix, registered(Probe("reader"), topic)).startup()


async def test_a_consumer_that_was_made_beforehand_begins_where_it_is(
    client: Client, topic: Topic, prefix: str
) -> None:
    probe, name = Probe("late"), token("Topic", topic.name)
    async with bus_with(prefix) as bus:
        await bus.send(topic, Numbered(1))
        config = ConsumerConfig(
            durable_name="late",
            deliver_policy=DeliverPolicy.NEW,
            ack_policy=AckPolicy.EXPLICIT,
            max_ack_pending=1000,
        )
        await client.jsm().add_consumer(name, config)
        await bus.send(topic, Numbered(2))
    async with bus_with(prefix, registered(probe, topic)) as bus:
        await bus.send(topic, Numbered(3))
        await eventually(lambda: probe.numbers == [2, 3])


async def test_a_restart_replays_no_history(topic: Topic, prefix: str) -> None:
    probe = Probe("steady")
    for number in range(3):
        async with bus_with(prefix, registered(probe, topic)) as bus:
            await bus.send(topic, Numbered(number))
            await eventually(lambda: number in probe.numbers)  # noqa: B023 - within the round
    assert probe.numbers == [0, 1, 2]


async def test_types_that_are_added_later_are_delivered(topic: Topic, prefix: str) -> None:
    probe = Probe("growing")
    async with bus_with(prefix, registered(probe, topic)):
        pass
    both = IntegrationEventBusRegistration(probe, topic, [Numbered, Other])
    async with bus_with(prefix, both) as bus:
        await bus.send(topic, Other(1))
        await eventually(lambda: probe.handled == [Other(1)])


# --- sending ----------------------------------------------------------------------------------


async def test_what_the_server_would_cut_the_connection_for_is_refused(
    topic: Topic, prefix: str
) -> None:
    probe = Probe("reader")
    bus = bus_with(prefix, registered(probe, topic), max_body_size=8 << 20)
    async with bus:
        with pytest.raises(MessageTooLargeError):
            await bus.send(topic, Numbered(1, text="x" * (1 << 20)))
        await bus.send(topic, Numbered(2))
        await eventually(lambda: probe.numbers == [2])
        assert bus.health().connected


async def test_a_send_with_the_same_id_is_accepted_and_kept_once(topic: Topic, prefix: str) -> None:
    probe = Probe("reader")
    async with bus_with(prefix, registered(probe, topic)) as bus:
        for number in (1, 1, 2):
            await bus.send(topic, Numbered(number), id=f"id-{number}")
        await eventually(lambda: 2 in probe.numbers)
    assert probe.numbers == [1, 2]


# --- dead letters -----------------------------------------------------------------------------


async def test_a_dead_letter_can_be_redriven_again_and_again(topic: Topic, prefix: str) -> None:
    async def fail(_: object) -> None:
        raise RuntimeError("für immer \N{SNOWMAN}\nsecond line")

    probe = Probe("unlucky", fail)
    registration = registered(probe, topic, retry=RetryPolicy(attempts=1))
    async with bus_with(prefix, registration) as bus:
        await bus.send(topic, Numbered(1), id="the-one")
        for times in range(1, 4):
            (letter,) = await eventually(lambda: bus.dead_letters(probe))
            assert letter.message.id == "the-one"
            assert letter.message.type == NUMBERED
            assert letter.error.startswith("RuntimeError: für immer \N{SNOWMAN}\nat ")
            assert letter.error.endswith("\nsecond line")
            assert len(probe.arrivals) == times
            await bus.redrive(probe, [letter])
    assert {arrival.delivery.id for arrival in probe.arrivals} == {"the-one"}


async def test_bytes_without_headers_keep_their_id_and_type(
    client: Client, topic: Topic, prefix: str
) -> None:
    probe = Probe("reader")
    async with bus_with(prefix, registered(probe, topic)) as bus:
        await bus.transport.publish(Message(topic.name, NUMBERED, "raw-1", b"\xff", {}, "key"))
        (letter,) = await eventually(lambda: bus.dead_letters(probe))
        assert letter.message == Message(topic.name, NUMBERED, "raw-1", b"\xff", {}, "key")
        await bus.redrive(probe, [letter])
        (again,) = await eventually(lambda: bus.dead_letters(probe))
    assert again.message == letter.message
    assert again.id != letter.id


async def test_what_a_shutdown_gave_back_is_no_attempt(topic: Topic, prefix: str) -> None:
    attempts: list[int] = []

    async def fail_in_the_end(_: object) -> None:
        delivery = current_delivery()
        assert delivery is not None
        attempts.append(delivery.attempt)
        if len(attempts) <= 3:
            await asyncio.Event().wait()  # until the grace is over
        raise RuntimeError

    retry = RetryPolicy(attempts=2, delay=0.01, in_place=0)
    for _ in range(3):
        probe = Probe("patient", fail_in_the_end)
        bus = bus_with(prefix, registered(probe, topic, retry=retry))
        await bus.startup()
        if not attempts:
            await bus.send(topic, Numbered(1))
        await eventually(lambda: probe.running)  # noqa: B023 - within the round
        await bus.shutdown(grace=0)
    probe = Probe("patient", fail_in_the_end)
    async with bus_with(prefix, registered(probe, topic, retry=retry)) as bus:
        (letter,) = await eventually(lambda: bus.dead_letters(probe))
    assert attempts == [1, 1, 1, 1, 2]
    assert letter.attempts == 2


# --- clients ----------------------------------------------------------------------------------


async def test_a_client_that_was_passed_in_is_used_and_left_open(
    client: Client, topic: Topic, prefix: str
) -> None:
    probe = Probe("guest")
    async with bus_with(prefix, registered(probe, topic), url=client) as bus:
        await bus.send(topic, Numbered(1))
        await eventually(lambda: probe.numbers == [1])
    assert client.is_connected
    assert not bus.health().connected
    async with bus:
        await bus.send(topic, Numbered(2))
        await eventually(lambda: probe.numbers == [1, 2])


async def test_a_client_that_was_passed_in_reconnects(topic: Topic, prefix: str) -> None:
    client, probe = Client(), Probe("guest")
    await client.connect(plain_url(), reconnect_time_wait=0, error_cb=_quiet)
    try:
        async with bus_with(prefix, registered(probe, topic), url=client) as bus:
            for number in range(3):
                await client.force_reconnect()
                await bus.send(topic, Numbered(number))
            await eventually(lambda: set(probe.numbers) == {0, 1, 2})
            await eventually(lambda: bus.health().healthy)
    finally:
        await client.close()


async def test_the_bus_ends_when_its_owner_closes_the_client(topic: Topic, prefix: str) -> None:
    client = Client()
    await client.connect(plain_url())
    bus = bus_with(prefix, registered(Probe("guest"), topic), url=client)
    running = asyncio.create_task(bus.run(signals=()))
    await eventually(lambda: bus.health().consumers)
    await client.close()
    with pytest.raises(ConsumerStoppedError):
        await running


async def test_a_lost_connection_is_replaced_and_its_sends_repeated(
    topic: Topic, prefix: str
) -> None:
    probe = Probe("reader")
    async with bus_with(prefix, registered(probe, topic)) as bus:
        assert isinstance(bus.transport, NatsTransport)
        sends: list[asyncio.Task[None]] = []
        for number in range(60):
            sends.append(asyncio.create_task(bus.send(topic, Numbered(number))))
            await asyncio.sleep(0)
            if number % 20 == 10:
                await eventually(lambda: bus.transport.connected)
                lost: Any = bus.transport._link.client._transport
                lost.close()
        await asyncio.gather(*sends)
        await eventually(lambda: set(probe.numbers) == set(range(60)))
    assert len(probe.numbers) == 60


async def _quiet(_: Exception) -> None:
    pass


async def test_what_the_driver_cancels_of_its_own_does_not_end_the_link() -> None:
    class Closing:
        async def close(self) -> None:
            raise asyncio.CancelledError

    closing: Any = Closing()
    await _link._close(closing)


async def test_what_the_driver_raises_at_closing_does_not_end_the_link() -> None:
    class Closing:
        async def close(self) -> None:
            raise TypeError("'NoneType' object is not callable")  # asyncio's, on a lost connection

    closing: Any = Closing()
    await _link._close(closing)


async def test_a_driver_without_the_shorter_ways_does_as_well(
    client: Client, topic: Topic, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_driver, "new_client", Client)

    async def fail_once(event: Any) -> None:
        if event.number == 1 and probe.attempts[-1] == 1:
            raise ValueError("once")
        if event.number == 2:
            raise ValueError("always")

    probe = Probe("plain", fail_once)
    retry = RetryPolicy(attempts=2, delay=0.01, in_place=0)
    async with bus_with(prefix, registered(probe, topic, retry=retry)) as bus:
        assert type(bus.transport._link.client) is Client  # type: ignore[attr-defined]
        await bus.send(topic, Numbered(0), headers={"x-share": "100%"})
        await bus.send_many(topic, map(Numbered, range(1, 300)))
        await eventually(lambda: set(probe.numbers) == set(range(300)) - {2})
        assert probe.arrivals[0].delivery.headers["x-share"] == "100%"
        (letter,) = await eventually(lambda: bus.dead_letters("plain"))
    assert letter.attempts == 2


# --- options ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://host:4222", "nats://host:4222"),
        ("nats://me:secret@host:4222", "nats://me:***@host:4222"),
        ("tls://secret@host", "tls://***@host"),
        ("me:secret@host:4222", "me:***@host:4222"),
    ],
)
def test_secrets_are_masked(url: str, shown: str) -> None:
    assert masked(url) == shown
    bus = NatsIntegrationEventBus([url])
    assert "secret" not in repr(bus) + repr(bus.transport)


@pytest.mark.parametrize("module", ["", ".bus"])
def test_without_nats_py_the_import_names_the_extra(module: str) -> None:
    code = (
        "import sys; sys.modules['nats'] = None\n"
        f"import events.integration.implementation.nats{module}"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.strip().endswith('pip install "integration-events[nats]"')


@pytest.mark.parametrize("options", [{"lease": 0.1}, {"max_crashes": 0}])
def test_options_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidTopologyError):
        NatsIntegrationEventBus(**options)
