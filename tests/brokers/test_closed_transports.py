"""A transport that is not connected says so, and neither waits nor reaches for its broker."""

import asyncio
from collections.abc import Callable

import pytest

from events.errors import BusUnavailableError
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.implementation.nats import NatsIntegrationEventBus
from events.integration.implementation.rabbitmq import RabbitMQIntegrationEventBus
from events.integration.implementation.redis import (
    RedisPubSubIntegrationEventBus,
    RedisStreamsIntegrationEventBus,
)
from events.integration.message import Message

BUSES: list[Callable[[], TransportIntegrationEventBus]] = [
    lambda: RabbitMQIntegrationEventBus("amqp://guest:guest@localhost:1/"),
    lambda: RedisStreamsIntegrationEventBus("redis://localhost:1/0"),
    lambda: RedisPubSubIntegrationEventBus("redis://localhost:1/0"),
    lambda: NatsIntegrationEventBus("nats://localhost:1"),
]


@pytest.mark.parametrize("new_bus", BUSES)
async def test_a_transport_that_was_never_connected_takes_nothing(
    new_bus: Callable[[], TransportIntegrationEventBus],
) -> None:
    transport = new_bus().transport
    assert not transport.connected
    async with asyncio.timeout(60):
        with pytest.raises(BusUnavailableError):
            await transport.publish(Message("orders", "order.paid", "id-1", b"{}", {}))
        await transport.close()


@pytest.mark.parametrize("new_bus", BUSES)
async def test_a_broker_that_is_not_there_is_an_error_at_startup_that_names_it(
    new_bus: Callable[[], TransportIntegrationEventBus],
) -> None:
    bus = new_bus()
    async with asyncio.timeout(120):
        with pytest.raises(BusUnavailableError, match="localhost"):
            await bus.startup()
    assert not bus.health().started
