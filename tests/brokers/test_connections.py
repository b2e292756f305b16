"""The connection of a bus: what is the same on every bus that has a broker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from events.errors import BusUnavailableError, ConsumerStoppedError
from events.integration import IntegrationEventBusRegistration, Topic
from events.nats import NATSBus
from events.rabbitmq import RabbitMQBus
from events.redis import RedisPubSubBus, RedisStreamsBus
from events.testing import eventually
from events.testing.contracts import Numbered, Probe
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
    bus = make_bus(server.url, wait_for_broker=True, startup_timeout=240)
    starting = asyncio.create_task(bus.startup())
    await eventually(lambda: bool(caplog.records))  # it says what it waits for
    assert not starting.done()
    await asyncio.to_thread(server.__enter__)
    try:
        await starting
        await bus.send(Topic("early"), Numbered(1))
        await bus.shutdown()
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


@pytest.mark.parametrize(("make_server", "make_bus"), BUSES)
async def test_connecting_ends_in_time_where_nothing_answers(
    make_server: Callable[[Path], Any], make_bus: Callable[..., Any], tmp_path: Path
) -> None:
    async with silent_server() as port:
        scheme = make_server(tmp_path).url.partition("://")[0]
        bus = make_bus(f"{scheme}://127.0.0.1:{port}", connect_timeout=0.5, startup_timeout=600)
        with pytest.raises(BusUnavailableError, match=r"0\.5 s") as raised:
            await bus.startup()
    assert str(port) in str(raised.value)


@pytest.mark.parametrize(
    ("make_server", "make_bus"), [(RabbitMQServer, RabbitMQBus), (NatsServer, NATSBus)]
)
async def test_a_host_that_does_not_answer_leaves_time_for_the_next(
    make_server: Callable[[Path], Any], make_bus: Callable[..., Any], tmp_path: Path
) -> None:
    server = make_server(tmp_path)
    await asyncio.to_thread(server.__enter__)
    try:
        async with silent_server() as port:
            scheme = server.url.partition("://")[0]
            urls = [f"{scheme}://127.0.0.1:{port}", server.url]
            async with make_bus(urls, connect_timeout=20) as bus:
                await bus.send(Topic("next"), Numbered(1))
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


@pytest.mark.parametrize(("make_server", "make_bus"), BUSES)
async def test_a_connection_that_nobody_makes_again_ends_the_consumers(
    make_server: Callable[[Path], Any],
    make_bus: Callable[..., Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As by a program that cancels all tasks there are."""
    server = make_server(tmp_path)
    await asyncio.to_thread(server.__enter__)
    try:
        registration = IntegrationEventBusRegistration(Probe("left"), Topic("left"), [Numbered])
        async with make_bus(server.url, [registration]) as bus:
            running = asyncio.create_task(bus.run())
            await eventually(lambda: bus.health().healthy)
            for task in asyncio.all_tasks():
                if task.get_name().endswith(" connection"):
                    task.cancel()
            with pytest.raises(ConsumerStoppedError):
                await running
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)
    assert "will not reconnect: its task was cancelled" in caplog.text


@asynccontextmanager
async def silent_server() -> AsyncGenerator[int]:
    """Accept connections, and say nothing; yield the port."""
    writers: list[asyncio.StreamWriter] = []

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for writer in writers:
            writer.close()
