"""The JavaScript of the page for other languages, run as it stands: it publishes to us, and reads.

Node must be installed. Its packages are installed from a lock file into `build/javascript`, by
`npm ci`, whenever that file has changed.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from events.integration import (
    EventRegistry,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    Topic,
)
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.implementation.redis import RedisPubSubIntegrationEventBus
from events.testing import eventually
from events.testing.contracts import Probe
from tests.acceptance.node import node_with
from tests.brokers.nats_server import plain_url
from tests.brokers.rabbitmq_server import Client, RabbitMQHarness, rabbitmq_url
from tests.brokers.redis_server import redis_url
from tests.contracts.nats_harness import NatsHarness
from tests.contracts.test_redis_streams_bus import StreamsHarness

__all__ = ["rabbitmq_url"]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "other-languages.md"
PACKAGES = Path(__file__).parent / "javascript"
FOLDER = ROOT / "build" / "javascript"
BUSES = ("rabbitmq", "streams", "pubsub", "nats")
TIMEOUT = 120.0


@dataclass(frozen=True)
class OrderPlacedV1(IntegrationEvent):
    type = "order.placed"
    version = 1
    registry = EventRegistry()
    number: int
    note: str = ""


def snippets() -> dict[str, str]:
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(r"^```js\n// (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return dict(found)


def test_the_page_has_a_snippet_for_each_bus_and_direction() -> None:
    assert set(snippets()) == {f"{verb}-{bus}.mjs" for verb in ("publish", "read") for bus in BUSES}


@pytest.fixture(scope="module")
def node() -> str:
    """Return the program, with the packages of the snippets installed."""
    return node_with(PACKAGES, FOLDER, f"the JavaScript of {PAGE.relative_to(ROOT)} is not run")


class Scripts:
    """The snippets of one test, in a folder of their own, with a topic of their own."""

    def __init__(self, node: str, folder: Path, topic: Topic, urls: Mapping[str, str]) -> None:
        self.node, self.folder = node, folder
        self.environment = os.environ | urls
        for name, text in snippets().items():
            (folder / name).write_text(text.replace("orders", topic.name), encoding="utf-8")

    @asynccontextmanager
    async def running(self, name: str) -> AsyncGenerator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            self.node, name, cwd=self.folder, env=self.environment, stdout=asyncio.subprocess.PIPE
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def output(self, name: str) -> str:
        async with asyncio.timeout(TIMEOUT), self.running(name) as process:
            out, _ = await process.communicate()
        assert process.returncode == 0
        return out.decode().strip()


async def line_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(TIMEOUT):
        return (await process.stdout.readline()).decode().strip()


@pytest.fixture
def topic() -> Topic:
    return Topic(f"orders-{uuid4().hex[:8]}")


@pytest.fixture
def folder(node: str) -> Generator[Path]:
    """Under the one with the packages, where Node looks for them."""
    folder = FOLDER / f"run-{uuid4().hex[:8]}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def scripts(node: str, folder: Path, topic: Topic, rabbitmq_url: str) -> Scripts:
    urls = {"AMQP_URL": rabbitmq_url, "REDIS_URL": redis_url(), "NATS_URL": plain_url()}
    return Scripts(node, folder, topic, urls)


@pytest.fixture
async def bus(
    kind: str, topic: Topic, rabbitmq_url: str
) -> AsyncGenerator[TransportIntegrationEventBus]:
    if kind == "rabbitmq":
        rabbitmq = RabbitMQHarness(rabbitmq_url)
        yield rabbitmq.new_bus(source="/stock", connect_timeout=60, startup_timeout=240)
        await rabbitmq.aclose()
        with Client(rabbitmq_url) as client:
            client.drop({("queue", f"stock@{topic.name}")})
    elif kind == "nats":
        nats = NatsHarness()
        yield nats.new_bus(source="/stock", connect_timeout=60, startup_timeout=240)
        await nats.aclose()
    elif kind == "streams":
        streams = StreamsHarness()
        yield streams.new_bus(source="/stock", connect_timeout=60, startup_timeout=240)
        await streams.aclose()
        async with Redis.from_url(redis_url()) as client:
            await client.delete(topic.name)
    else:
        yield RedisPubSubIntegrationEventBus(
            redis_url(), source="/stock", connect_timeout=60, startup_timeout=240
        )


@pytest.mark.parametrize("kind", BUSES)
async def test_what_they_publish_we_read(
    kind: str, topic: Topic, scripts: Scripts, bus: TransportIntegrationEventBus
) -> None:
    probe = Probe(f"{topic.name}-reader")
    await bus.register(IntegrationEventBusRegistration(probe, topic, [OrderPlacedV1]))
    async with bus:
        id_ = await scripts.output(f"publish-{kind}.mjs")
        await eventually(lambda: probe.handled == [OrderPlacedV1(7, "größe")], TIMEOUT)
        if bus.transport.features.dead_letters:
            assert not await bus.dead_letters(probe)
    (arrival,) = probe.arrivals
    assert (arrival.delivery.id, arrival.delivery.headers["ce-source"]) == (id_, "/shop")


@pytest.mark.parametrize("kind", BUSES)
async def test_what_we_send_they_read(
    kind: str, topic: Topic, scripts: Scripts, bus: TransportIntegrationEventBus
) -> None:
    probe = Probe(f"{topic.name}-reader")
    await bus.register(IntegrationEventBusRegistration(probe, topic, [OrderPlacedV1]))
    async with bus, scripts.running(f"read-{kind}.mjs") as process:
        assert await line_of(process) == "reading"
        event = OrderPlacedV1(8, "größe")
        await bus.send(topic, event, headers={"x-own": "ü"})
        read = json.loads(await line_of(process))
        await eventually(lambda: probe.handled == [event], TIMEOUT)
        assert read == {"id": probe.arrivals[0].delivery.id, **event.to_dict()}


def test_the_packages_are_pinned_and_come_from_whichever_registry_is_set_up() -> None:
    lock = json.loads((PACKAGES / "package-lock.json").read_text())
    packages = [package for name, package in lock["packages"].items() if name]
    assert packages
    assert all("integrity" in package and "resolved" not in package for package in packages)
    wanted = json.loads((PACKAGES / "package.json").read_text())["dependencies"]
    assert lock["packages"][""]["dependencies"] == wanted
