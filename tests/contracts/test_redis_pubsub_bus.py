"""Redis pub/sub under the contracts of every bus."""

from typing import Unpack
from uuid import uuid4

from redis.asyncio import Redis

from events.integration.implementation.base import BusOptions, TransportIntegrationEventBus
from events.integration.implementation.redis import RedisPubSubIntegrationEventBus
from events.testing.contracts import (
    DeliveryContracts,
    FailureContracts,
    Harness,
    LifecycleContracts,
)
from tests.brokers.redis_server import redis_url


class PubSubHarness(Harness):
    timeout = 120.0
    deadline = 240.0

    def __init__(self) -> None:
        # Only the connections of this test have its name, so they can be counted.
        self.name = f"events-test-{uuid4().hex}"

    def new_bus(self, **options: Unpack[BusOptions]) -> TransportIntegrationEventBus:
        url = f"{redis_url()}?client_name={self.name}"
        # A private broker that has just started may be slow on a busy machine.
        options.setdefault("connect_timeout", 60)
        options.setdefault("startup_timeout", 240)
        return RedisPubSubIntegrationEventBus(url, **options)

    async def lose_connection(self, bus: TransportIntegrationEventBus) -> None:
        async with Redis.from_url(redis_url()) as redis:
            for client in await redis.client_list():
                if client["name"] == self.name:
                    await redis.client_kill_filter(_id=client["id"])

    async def open_resources(self) -> dict[str, int]:
        async with Redis.from_url(redis_url()) as redis:
            clients = [c for c in await redis.client_list() if c["name"] == self.name]
            channels = sum(int(client["sub"]) for client in clients)
            return {"connections": len(clients), "channels": channels}


class TestDelivery(DeliveryContracts):
    harness = PubSubHarness


class TestFailure(FailureContracts):
    harness = PubSubHarness


class TestLifecycle(LifecycleContracts):
    harness = PubSubHarness
