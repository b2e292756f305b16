"""What is given to a bus by mistake is refused when the bus is made, not when a broker is asked."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from events.errors import BusUnavailableError, InvalidTopologyError
from events.integration.implementation.nats import NatsIntegrationEventBus
from events.integration.implementation.rabbitmq import RabbitMQIntegrationEventBus
from events.integration.implementation.redis import RedisStreamsIntegrationEventBus

RABBITMQ: Callable[..., Any] = RabbitMQIntegrationEventBus
NATS: Callable[..., Any] = NatsIntegrationEventBus
REDIS: Callable[..., Any] = RedisStreamsIntegrationEventBus


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RABBITMQ([object()]), "needs a URL first, as in 'amqp://localhost', not <object"),
        (lambda: RABBITMQ("amqp://localhost/?hartbeat=5"), "its option 'hartbeat' is unknown"),
        (lambda: RABBITMQ("amqp://localhost/?heartbeat=x"), "'heartbeat' is unknown, or has a wr"),
        (lambda: RABBITMQ("amqp://localhost:port/"), "cannot be read as an AMQP URL"),
        (lambda: RABBITMQ(None), "needs a URL first, as in 'amqp://localhost', not None"),
        (lambda: RABBITMQ([]), "no URL: it needs a URL first"),
        (
            lambda: REDIS("redis://localhost/abc"),
            "the database must be a number, as in /0, not 'abc'",
        ),
        (lambda: REDIS("redis://localhost/0?sokcet_timeout=1"), "sokcet_timeout"),
        (lambda: NATS(None), "needs a URL first, as in 'nats://localhost', not None"),
        (lambda: NATS([]), "no URL: it needs a URL first"),
        (lambda: NATS(""), "needs a URL first, as in 'nats://localhost', not ''"),
        (lambda: RABBITMQ("amqp://localhost", prefetch=0), "prefetch must be at least 1, not 0"),
        (lambda: RABBITMQ("amqp://localhost", max_crashes=2), "max_crashes must be at least 3"),
        (lambda: REDIS("redis://localhost", max_crashes=2), "max_crashes must be at least 3"),
        (lambda: NATS("nats://localhost", max_crashes=2), "max_crashes must be at least 3"),
        (lambda: NATS([object()]), "needs a URL first, as in 'nats://localhost', not <object"),
        (
            lambda: NATS("amqp://me:secret@localhost"),
            r"URL 'amqp://me:\*\*\*@localhost': .*must be nats, tls, ws, wss, not 'amqp'",
        ),
    ],
)
def test_a_slip_is_named_with_its_cure(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidTopologyError, match=message):
        make()


@pytest.mark.parametrize("server", ["localhost", "localhost:4222", "tls://localhost"])
def test_a_server_of_nats_needs_no_scheme(server: str) -> None:
    assert server in repr(NATS(server))


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("tls://me:secret@127.0.0.1:{port}", {}),
        ("nats://me:secret@127.0.0.1:{port}", {"tls": ssl.create_default_context()}),
    ],
    ids=["by its scheme", "by an option"],
)
async def test_no_password_is_said_to_a_nats_server_without_tls_if_tls_is_asked_for(
    url: str, options: dict[str, Any]
) -> None:
    said: list[bytes] = []

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.9.10","auth_required":true}\r\n')
        said.append(await reader.read(65_536))
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        bus = NatsIntegrationEventBus(url.format(port=port), connect=options)
        with pytest.raises(BusUnavailableError, match="refused: .*secure connection not available"):
            await bus.startup()
    assert set(said) == {b""}  # of each try
