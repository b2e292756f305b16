"""`wait_for_broker`: the same option on every bus that has a broker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from events.integration import Topic
from events.nats import NATSBus
from events.rabbitmq import RabbitMQBus
from events.redis import RedisPubSubBus, RedisStreamsBus
from events.testing import eventually
from events.testing.contracts import Numbered
from tests.brokers.nats_server import NatsServer
from tests.brokers.rabbitmq_server import RabbitMQServer
from tests.brokers.redis_server import RedisServer
from tests.servers import PrivateServer

BUSES: list[tuple[Callable[[Path], PrivateServer], Callable[..., Any]]] = [
    (RabbitMQServer, RabbitMQBus),
    (RedisServer, RedisStreamsBus),
    (RedisServer, RedisPubSubBus),
    (NatsServer, NATSBus),
]


@pytest.mark.parametrize(("make_server", "make_bus"), BUSES)
async def test_a_bus_waits_for_a_broker_that_comes_late(
    make_server: Callable[[Path], Any],
    make_bus: Callable[..., Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    server = make_server(tmp_path)
    bus = make_bus(server.url, wait_for_broker=True, startup_timeout=60, send_timeout=1)
    starting = asyncio.create_task(bus.startup())
    await eventually(lambda: bool(caplog.records), 30)  # it says what it waits for
    assert not starting.done()
    await asyncio.to_thread(server.__enter__)
    try:
        await starting
        await bus.send(Topic("early"), Numbered(1))
        await bus.shutdown()
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)
