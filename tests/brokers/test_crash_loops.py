"""A message that ends its process does so equally often on every bus: conformance 27."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncGenerator
from typing import Any
from uuid import uuid4

import pytest

from events.integration import Topic
from events.testing import eventually
from events.testing.contracts import Harness, Numbered
from tests.brokers.crashing_worker import DEADLY
from tests.brokers.nats_server import plain_url
from tests.brokers.rabbitmq_server import Client, RabbitMQHarness, rabbitmq_url
from tests.brokers.redis_server import redis_url
from tests.contracts.nats_harness import NatsHarness
from tests.contracts.test_redis_streams_bus import StreamsHarness

__all__ = ["rabbitmq_url"]

COUNT = 8


@pytest.fixture
def name() -> str:
    return f"crash-{uuid4().hex[:8]}"


@pytest.fixture(params=["rabbitmq", "rabbitmq classic", "nats", "redis"])
async def bus(
    request: pytest.FixtureRequest, name: str
) -> AsyncGenerator[tuple[Harness, dict[str, Any]]]:
    """Return a harness, and the options with which a process gets at the same broker."""
    harness: Harness
    if request.param == "nats":
        harness = NatsHarness()
        options = {"url": plain_url(), "prefix": harness.prefix, "lease": 1}
    elif request.param == "redis":
        harness, options = StreamsHarness(), {"url": redis_url(), "lease": 1}
    else:
        harness = RabbitMQHarness(request.getfixturevalue("rabbitmq_url"))
        harness.queue_type = "classic" if "classic" in request.param else "quorum"
        options = {"url": harness.url, "queue_type": harness.queue_type}
    yield harness, options | {"kind": request.param.partition(" ")[0]}
    if isinstance(harness, RabbitMQHarness):
        queues = (f"{name}@{name}", f"{name}@{name}:quarantine", f"{name}:dead")
        with Client(harness.url) as client:
            client.drop({("exchange", name), *(("queue", queue) for queue in queues)})
    await harness.aclose()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"retry": {}}, 5),
        ({"retry": {"attempts": 1}}, 3),
        ({"retry": {}, "max_crashes": 4}, 4),
    ],
    ids=["as it is", "one attempt", "four crashes"],
)
async def test_deaths_until_it_is_given_up(
    bus: tuple[Harness, dict[str, Any]], name: str, options: dict[str, Any], expected: int
) -> None:
    harness, where = bus
    options = where | options
    kind, deaths = options.pop("kind"), 0
    written: set[str] = set()
    async with harness.new_bus() as sender:
        others = {str(number) for number in range(COUNT) if number != DEADLY}

        async def start() -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.brokers.crashing_worker", name, kind),
                json.dumps(options),
                stdout=asyncio.subprocess.PIPE,
            )

        async def listen(process: asyncio.subprocess.Process) -> None:
            assert process.stdout is not None
            async for line in process.stdout:
                written.add(line.decode().strip())

        process = await start()
        listening = asyncio.create_task(listen(process))
        await eventually(lambda: "started" in written)
        await sender.send_many(Topic(name), map(Numbered, range(COUNT)))
        try:
            while not (letters := await sender.dead_letters(name)) or not written >= others:
                await asyncio.wait([listening], timeout=0.1)
                if listening.done():
                    assert await process.wait() == -signal.SIGKILL
                    deaths += 1
                    assert deaths < 10, "it is not given up"
                    process = await start()
                    listening = asyncio.create_task(listen(process))
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
            await listening
        (letter,) = letters
    assert deaths == expected
    assert (letter.reason, letter.attempts) == ("crashed", expected)
    assert f'"number":{DEADLY}'.encode() in letter.message.body
