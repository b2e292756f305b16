"""A transport that is not connected says so, and neither waits nor reaches for its broker."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from events.errors import BusUnavailableError
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.implementation.nats import NatsIntegrationEventBus, NatsTransport
from events.integration.implementation.nats._publisher import Publisher as NatsPublisher
from events.integration.implementation.rabbitmq import (
    RabbitMQIntegrationEventBus,
    RabbitMQTransport,
)
from events.integration.implementation.rabbitmq._publisher import Publisher as RabbitMQPublisher
from events.integration.implementation.redis import (
    RedisPubSubIntegrationEventBus,
    RedisStreamsIntegrationEventBus,
)
from events.integration.message import Message
from tests.brokers.rabbitmq_server import rabbitmq_url
from tests.brokers.urls import broker_url

__all__ = ["rabbitmq_url"]

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


@pytest.mark.parametrize(
    ("kind", "new_transport", "waits", "links"),
    [
        ("rabbitmq", RabbitMQTransport, (RabbitMQPublisher, "drain"), ("_outward", "_inward")),
        ("nats", NatsTransport, (NatsPublisher, "close"), ("_link",)),
    ],
)
async def test_a_close_that_is_cancelled_leaves_no_connection_open(
    kind: str,
    new_transport: Callable[[str], Any],
    waits: tuple[type, str],
    links: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """While it waits for what was sent, as with a deadline for the shutdown."""
    transport = new_transport(broker_url(kind, request))
    await transport.connect()
    opened = [getattr(transport, name) for name in links]
    waiting = asyncio.Event()

    async def never(_: object) -> None:
        waiting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(*waits, never)
    closing = asyncio.create_task(transport.close())
    await waiting.wait()
    closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
    assert not any(link.is_open for link in opened)
