"""What is written to Redis is UTF-8: encoded by any part, and whatever the user's client prefers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any
from uuid import uuid4

import pytest
from redis._parsers import _AsyncHiredisParser, _AsyncRESP2Parser
from redis.asyncio import ConnectionPool, Redis

from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.implementation.redis import (
    RedisPubSubIntegrationEventBus,
    RedisStreamsIntegrationEventBus,
    _connecting,
)
from events.integration.topology import IntegrationEventBusRegistration, RetryPolicy, Topic
from events.testing import eventually
from events.testing.contracts import Numbered, Probe
from tests.brokers.redis_server import redis_url

SAID = "Zoë 雪 \N{SNOWFLAKE}"
BUSES = RedisStreamsIntegrationEventBus, RedisPubSubIntegrationEventBus


@pytest.fixture
async def name() -> AsyncGenerator[str]:
    name = f"événement-雪-{uuid4().hex[:12]}"
    yield name
    async with Redis.from_url(redis_url()) as redis:
        keys = [key async for key in redis.scan_iter(match=f"*{name}*")]
        await redis.delete(name, *keys)


@pytest.fixture(params=["hiredis", "Python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[object]:
    """Have hiredis write and read, or do as where it is not installed."""
    assert _connecting._pack is not None, "the tests' environment has hiredis"
    if request.param == "hiredis":
        return _AsyncHiredisParser
    monkeypatch.setattr(_connecting, "_pack", None)
    return _AsyncRESP2Parser


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
@pytest.mark.parametrize("new_bus", BUSES)
async def test_headers_names_and_events_are_written_and_read_as_utf_8(
    new_bus: Callable[..., TransportIntegrationEventBus],
    encoding: str,
    parser: type[object],
    name: str,
) -> None:
    pool: Any = ConnectionPool
    pool = pool.from_url(redis_url(), parser_class=parser, encoding=encoding)
    probe, topic = Probe(name), Topic(name)
    async with Redis(connection_pool=pool) as client, new_bus(client) as bus:
        registration = IntegrationEventBusRegistration(probe, topic, [Numbered])
        await bus.register(registration)
        await bus.send(topic, Numbered(1, text=SAID), headers={"x-said": SAID})
        await eventually(lambda: probe.handled == [Numbered(1, text=SAID)])
    assert probe.arrivals[0].delivery.headers["x-said"] == SAID


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
async def test_fields_and_dead_letters_are_utf_8(
    encoding: str, parser: type[object], name: str
) -> None:
    async def fail(_: Numbered) -> None:
        raise RuntimeError(SAID)

    pool: Any = ConnectionPool
    pool = pool.from_url(redis_url(), parser_class=parser, encoding=encoding)
    probe, topic = Probe(name, fail), Topic(name)
    async with (
        Redis(connection_pool=pool) as client,
        RedisStreamsIntegrationEventBus(client) as bus,
        Redis.from_url(redis_url()) as redis,
    ):
        retry = RetryPolicy(attempts=2, delay=0.01, in_place=0)
        await bus.register(IntegrationEventBusRegistration(probe, topic, [Numbered], retry=retry))
        await bus.send(topic, Numbered(1), headers={"x-said": SAID})

        async def dead() -> Any:
            return await redis.xrange(f"events:{{{name}}}:{name}:dead".encode())

        ((_, fields),) = await eventually(dead)
        (letter,) = await bus.dead_letters(probe)
    assert fields[b"x-said"] == SAID.encode()
    assert letter.message.headers["x-said"] == SAID
    assert SAID in letter.error
