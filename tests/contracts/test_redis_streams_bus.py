"""Redis Streams under the contracts of every bus."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Unpack
from uuid import uuid4

from redis.asyncio import Redis

from events.integration.implementation.base import BusOptions, TransportIntegrationEventBus
from events.integration.implementation.redis import RedisStreamsIntegrationEventBus
from events.testing.contracts import (
    DeliveryContracts,
    FailureContracts,
    Harness,
    LifecycleContracts,
)
from tests.brokers.redis_server import redis_url


class StreamsHarness(Harness):
    timeout = 120.0
    deadline = 240.0

    def __init__(self) -> None:
        # Only the connections of this test have its name, so they can be counted and cut.
        self.name = f"events-test-{uuid4().hex}"
        self.buses: list[RedisStreamsIntegrationEventBus] = []
        self.made: set[tuple[str, str]] = set()

    @property
    def url(self) -> str:
        """Where the server is, for a user with all permissions."""
        return redis_url()

    @property
    def bus_url(self) -> str:
        """Where it is for the buses."""
        return self.url

    def new_bus(self, **options: Unpack[BusOptions]) -> RedisStreamsIntegrationEventBus:
        url = f"{self.bus_url}?client_name={self.name}"
        # A private broker that has just started may be slow on a busy machine.
        options.setdefault("connect_timeout", 60)
        options.setdefault("startup_timeout", 240)
        bus = RedisStreamsIntegrationEventBus(url, **options)
        self.buses.append(bus)
        return bus

    def keys(self) -> list[str]:
        """Return where the dead letters of every registration go."""
        return [
            f"events:{{{registration.topic.name}}}:{registration.consumer.name}:dead"
            for bus in self.buses
            for registration in bus.registrations
        ]

    @asynccontextmanager
    async def break_dead_letters(self) -> AsyncGenerator[None, None]:
        async with Redis.from_url(self.url) as redis:
            for key in self.keys():
                await redis.set(key, "no stream")
            try:
                yield
            finally:
                await redis.delete(*self.keys())

    async def lose_connection(self, bus: TransportIntegrationEventBus) -> None:
        async with Redis.from_url(self.url) as redis:
            for client in await redis.client_list():
                if client["name"] == self.name:
                    await redis.client_kill_filter(_id=client["id"])

    async def open_resources(self) -> dict[str, int]:
        async with Redis.from_url(self.url) as redis:
            clients = [c for c in await redis.client_list() if c["name"] == self.name]
            # A running one has an id once it has read something, so it may have one or none.
            left = 0
            for bus in self.buses:
                own = 1 if bus.health().started else 0
                for registration in bus.registrations:
                    topic, group = registration.topic.name, registration.consumer.name
                    if await redis.exists(topic):
                        consumers = await redis.xinfo_consumers(topic, group)
                        ids = sum(consumer["name"] != b"nobody" for consumer in consumers)
                        left += max(0, ids - own)
            return {"connections": len(clients), "consumer ids left behind": left}

    async def aclose(self) -> None:
        # The names of one test end alike.
        endings = {r.topic.name.rpartition("-")[2] for bus in self.buses for r in bus.registrations}
        async with Redis.from_url(self.url) as redis:
            for ending in endings:
                keys = [key async for key in redis.scan_iter(match=f"*-{ending}*")]
                await redis.delete(*keys)


class TestDelivery(DeliveryContracts):
    harness = StreamsHarness


class TestFailure(FailureContracts):
    harness = StreamsHarness


class TestLifecycle(LifecycleContracts):
    harness = StreamsHarness
