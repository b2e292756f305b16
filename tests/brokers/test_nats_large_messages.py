"""Messages that leave no room for what NATS must carry beside them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from events.errors import BusUnavailableError, MessageTooLargeError
from events.integration import IntegrationEventBusRegistration, RetryPolicy, Topic
from events.integration.implementation.nats import NatsIntegrationEventBus
from events.testing import eventually
from events.testing.contracts import Numbered, Probe
from tests.brokers.nats_server import NatsServer, plain_url
from tests.contracts.nats_harness import NatsHarness

SUBJECT = Numbered.type
BINARY = {"ce-specversion": "1.0", "ce-type": SUBJECT, "ce-source": "/foreign"}
LARGEST_BLOCK = 65_535  # bytes of headers that JetStream stores


@dataclass
class Foreign:
    """A message of a program without this package."""

    body: bytes
    headers: dict[str, str]

    async def publish(self, client: Client, topic: Topic) -> None:
        subject = f"{topic.name}.{SUBJECT}"
        await client.jetstream().publish(subject, self.body, headers=self.headers or None)


def flat(size: int) -> bytes:
    """Return an event that has this many bytes."""
    event = {"type": SUBJECT, "version": 1, "number": 1, "text": ""}
    return json.dumps(event | {"text": "x" * (size - len(json.dumps(event)))}).encode()


def envelope(size: int) -> bytes:
    """Return a CloudEvent that has this many bytes."""
    whole: dict[str, Any] = {"specversion": "1.0", "id": "of-its-own", "source": "/foreign"}
    whole |= {"type": SUBJECT, "data": {"number": 1, "text": ""}}
    whole["data"]["text"] = "x" * (size - len(json.dumps(whole)))
    return json.dumps(whole).encode()


def block_size(headers: dict[str, str]) -> int:
    return len("NATS/1.0\r\n\r\n") + sum(len(f"{n}: {v}\r\n") for n, v in headers.items())


def with_headers(limit: int) -> Foreign:
    headers = {"Nats-Msg-Id": "17", "ce-id": "of-its-own", **BINARY}
    return Foreign(flat(limit - block_size(headers)), headers)


def with_large_headers(_: int) -> Foreign:
    headers = {"ce-id": "of-its-own", **BINARY, "x-large": ""}
    headers["x-large"] = "h" * (LARGEST_BLOCK - block_size(headers))
    return Foreign(flat(1_000), headers)


def with_a_large_id(_: int) -> Foreign:
    return Foreign(flat(1_000), {"ce-id": "%i" * 20_000, **BINARY})


KINDS = [
    lambda limit: Foreign(flat(limit), {}),
    lambda limit: Foreign(envelope(limit), {}),
    lambda limit: Foreign(flat(limit - 100), {}),
    with_headers,
    with_large_headers,
    with_a_large_id,
]
NAMES = [
    "no room",
    "no room, in an envelope",
    "100 bytes",
    "headers too",
    "large headers",
    "large id",
]


@pytest.fixture
async def harness() -> AsyncGenerator[NatsHarness, None]:
    harness = NatsHarness()
    yield harness
    await harness.aclose()


@pytest.fixture
async def client() -> AsyncGenerator[Client, None]:
    client = await nats.connect(plain_url())
    yield client
    await client.close()


def registered(probe: Probe, topic: Topic) -> IntegrationEventBusRegistration:
    retry = RetryPolicy(attempts=1)
    return IntegrationEventBusRegistration(probe, topic, [Numbered], retry=retry)


class Broken:
    """A handler that fails until it is mended."""

    def __init__(self) -> None:
        self.is_mended = False
        self.probe = Probe("reader", self.handle)

    async def handle(self, event: Any) -> None:
        if not self.is_mended and event.number == 1:
            raise ValueError("e\n" * 5_000)


async def stored(client: Client, harness: NatsHarness) -> int:
    info = await client.jsm().stream_info(f"{harness.prefix}@dead-letters")
    return info.state.messages


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
async def test_what_leaves_no_room_becomes_a_dead_letter_and_can_be_redriven(
    harness: NatsHarness, client: Client, kind: Any
) -> None:
    topic, broken = Topic(f"large-{harness.prefix}"), Broken()
    foreign: Foreign = kind(client.max_payload)
    async with harness.new_bus() as bus:
        await bus.register(registered(broken.probe, topic))
        await foreign.publish(client, topic)
        await bus.send(topic, Numbered(2))
        await eventually(lambda: _has_letters(bus, 1))
        await eventually(lambda: 2 in broken.probe.numbers)
        (letter,) = await bus.dead_letters("reader")
        assert letter.message.body == foreign.body
        own = {n: v for n, v in foreign.headers.items() if not n.startswith("Nats-")}
        assert letter.message.headers == own
        if "ce-id" in own:
            assert letter.message.id in (own["ce-id"], own["ce-id"].replace("%i", "%25i"))
        assert (letter.message.topic, letter.reason) == (topic.name, "retries-exhausted")
        assert letter.error.startswith("ValueError: e\n")
        assert letter.attempts == 1

        broken.is_mended = True
        await bus.redrive("reader", [letter.id])
        await eventually(lambda: broken.probe.numbers == [2, 1])
        assert broken.probe.arrivals[-1].event == broken.probe.arrivals[0].event
        assert await stored(client, harness) == 0


async def _has_letters(bus: Any, count: int) -> bool:
    return len(await bus.dead_letters("reader")) == count


async def test_what_is_discarded_leaves_nothing_behind(
    harness: NatsHarness, client: Client
) -> None:
    topic, broken = Topic(f"large-{harness.prefix}"), Broken()
    async with harness.new_bus() as bus:
        await bus.register(registered(broken.probe, topic))
        await Foreign(flat(client.max_payload), {}).publish(client, topic)
        await eventually(lambda: _has_letters(bus, 1))
        assert await stored(client, harness) > 1
        (letter,) = await bus.dead_letters("reader")
        await bus.discard("reader", [letter.id])
        assert await stored(client, harness) == 0
        assert not await bus.dead_letters("reader")


async def test_headers_over_the_limit_of_jetstream_are_refused_at_send(
    harness: NatsHarness,
) -> None:
    topic = Topic(f"large-{harness.prefix}")
    async with harness.new_bus() as bus:
        # Names and values are within the limit of every bus; what stands between them is not.
        many = {f"x-{number:04}": "h" for number in range(6_500)}
        with pytest.raises(MessageTooLargeError, match=r"headers of .* over the limit of 65,535"):
            await bus.send(topic, Numbered(1), headers=many)
        await bus.send(topic, Numbered(1), headers={"x-large": "h" * 64_000})


async def test_a_limit_that_was_lowered_leaves_the_dead_letter_where_it_is(tmp_path: Path) -> None:
    server, topic, broken = NatsServer(tmp_path / "nats"), Topic("lowered"), Broken()
    server.config = "jetstream { store_dir: STORE }"
    with server:
        bus = NatsIntegrationEventBus(server.url, [registered(broken.probe, topic)], lease=2.0)
        async with bus:
            await bus.send(topic, Numbered(1, text="x" * 900_000))
            await eventually(lambda: _has_letters(bus, 1))
            (letter,) = await bus.dead_letters("reader")
        server.kill()
        server.config = "max_payload: 100KB\njetstream { store_dir: STORE }"
        server.start()
        broken.is_mended = True
        bus = NatsIntegrationEventBus(server.url, [registered(broken.probe, topic)], lease=2.0)
        async with bus:
            with pytest.raises(BusUnavailableError, match="raise the server's `max_payload`"):
                await bus.redrive("reader", [letter.id])
            (kept,) = await bus.dead_letters("reader")
            assert kept.message.body == letter.message.body
