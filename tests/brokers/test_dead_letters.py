"""What is known of a dead letter has the same names on every broker: conformance 15."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import pytest
from nats.aio.client import Client as NatsClient
from redis.asyncio import Redis

from events.integration import IntegrationEventBusRegistration, RetryPolicy, Topic
from events.testing import eventually
from events.testing.contracts import Harness, Numbered, Probe
from tests.brokers.nats_server import plain_url
from tests.brokers.rabbitmq_server import Client, RabbitMQHarness, rabbitmq_url
from tests.brokers.redis_server import redis_url
from tests.contracts.nats_harness import NatsHarness
from tests.contracts.test_redis_streams_bus import StreamsHarness

__all__ = ["rabbitmq_url"]


@pytest.fixture(params=["rabbitmq", "nats", "redis"])
async def harness(request: pytest.FixtureRequest) -> AsyncGenerator[Harness]:
    harness: Harness
    if request.param == "rabbitmq":
        harness = RabbitMQHarness(request.getfixturevalue("rabbitmq_url"))
    else:
        harness = NatsHarness() if request.param == "nats" else StreamsHarness()
    yield harness
    await harness.aclose()


async def written_of(harness: Harness, name: str) -> Mapping[str, Any]:
    """Return what stands beside the only dead letter of this consumer, on the topic of its name."""
    if isinstance(harness, RabbitMQHarness):
        with Client(harness.url) as client:
            got: Any = client.channel.basic_get(f"{name}:dead", auto_ack=True)
            headers: dict[str, Any] = got[1].headers
            return headers
    if isinstance(harness, NatsHarness):
        nats = NatsClient()
        await nats.connect(plain_url())
        try:
            stream = f"{harness.prefix}@dead-letters"
            letter = await nats.jetstream().get_last_msg(stream, f"{stream}.{name}")
        finally:
            await nats.close()
        return letter.headers or {}
    redis: Any
    async with Redis.from_url(redis_url(), decode_responses=True) as redis:
        ((_, fields),) = await redis.xrange(f"events:{{{name}}}:{name}:dead")
        return dict(fields)


async def test_names(harness: Harness) -> None:
    async def fail(_: Numbered) -> None:
        raise ValueError("no")

    name = f"letters-{uuid4().hex[:8]}"
    topic, probe, retry = Topic(name), Probe(name, fail), RetryPolicy(attempts=1)
    async with harness.new_bus() as bus:
        await bus.register(IntegrationEventBusRegistration(probe, topic, [Numbered], retry=retry))
        await bus.send(topic, Numbered(1))
        (letter,) = await eventually(lambda: bus.dead_letters(probe))
        written = await written_of(harness, name)
    written = dict(written)
    error, _, place = unquote(written.pop("events-error")).partition("\n")
    assert error == "ValueError: no"
    assert re.fullmatch(r"at \S*test_dead_letters\.py:\d+ in fail", place)
    assert {n: v for n, v in written.items() if n.startswith("events-")} == {
        "events-id": letter.message.id,
        "events-type": Numbered.type,
        "events-topic": name,
        "events-consumer": name,
        "events-reason": "retries-exhausted",
        "events-attempts": "1",
        "events-died-at": letter.died_at.isoformat(),
    } | ({"events-letter": letter.id} if "events-letter" in written else {})
