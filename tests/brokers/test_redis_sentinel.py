"""Redis Streams behind Sentinel: a master, its replica, and one who watches over them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from redis.asyncio import Redis
from redis.asyncio.sentinel import Sentinel

from events.errors import BusError
from events.integration import IntegrationEventBusRegistration, Topic
from events.integration.implementation.redis import RedisStreamsIntegrationEventBus
from events.testing import eventually
from events.testing.contracts import Numbered, Probe
from tests.brokers.redis_server import RedisServer, ReplicaServer, SentinelServer

TOPIC = Topic("watched")


class Group(NamedTuple):
    master: RedisServer
    replica: RedisServer
    sentinel: SentinelServer


@pytest.fixture
def group(tmp_path: Path) -> Generator[Group]:
    with (
        RedisServer(tmp_path / "master") as master,
        ReplicaServer(tmp_path / "replica", master) as replica,
        SentinelServer(tmp_path / "sentinel") as sentinel,
    ):
        yield Group(master, replica, sentinel)


@pytest.fixture
async def client(group: Group) -> AsyncGenerator[Any]:
    await eventually(lambda: _is_replicated(group))
    await asyncio.to_thread(group.sentinel.monitor, group.master)
    sentinel = cast("Any", Sentinel)([("127.0.0.1", group.sentinel.port)])
    client = sentinel.master_for("main")

    async def knows_the_replica() -> bool:
        return len(await sentinel.sentinels[0].sentinel_slaves("main")) == 1

    await eventually(knows_the_replica)  # of which only a living master tells it
    yield client
    await client.aclose()
    for each in sentinel.sentinels:
        await each.aclose()


async def _is_replicated(group: Group) -> bool:
    """Tell whether the replica has all that its master has."""
    async with Redis.from_url(group.master.url) as redis:
        info: dict[str, Any] = await redis.info("replication")
    followers = [info[name] for name in info if name.startswith("slave")]
    return [f["state"] == "online" and f["offset"] == info["master_repl_offset"] for f in followers
            if isinstance(f, dict)] == [True]  # fmt: skip


async def _pending(server: RedisServer) -> int:
    async with Redis.from_url(server.url) as redis:
        return sum(group["pending"] for group in await redis.xinfo_groups(TOPIC.name))


async def test_a_failover_goes_on_with_what_was_acknowledged_and_replicated(
    group: Group, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="events.integration")
    gate = asyncio.Event()

    async def wait_from_20_on(event: Numbered) -> None:
        if event.number >= 20:
            await gate.wait()

    probe = Probe("reader", wait_from_20_on)
    registration = IntegrationEventBusRegistration(probe, TOPIC, [Numbered], concurrency=5)
    async with RedisStreamsIntegrationEventBus(
        client,
        [registration],
        lease=15,
        send_timeout=60,
        connect_timeout=60,  # a longer silence would cost it its connection once more
        startup_timeout=240,
    ) as bus:
        # 20 are handled, 5 are being handled, 75 wait.
        await bus.send_many(TOPIC, map(Numbered, range(100)))
        await eventually(lambda: len(probe.handled) == 20 and len(probe.running) == 5)
        await eventually(lambda: _is_replicated(group))
        await asyncio.to_thread(group.sentinel.be_quick)
        group.master.kill()

        accepted: set[int] = set()

        async def sent() -> bool:
            number = 100 + len(accepted)
            try:
                await bus.send(TOPIC, Numbered(number))
            except BusError:
                return False
            accepted.add(number)
            return len(accepted) == 50

        await eventually(sent)
        assert len(probe.running) == 5, "a handler was cancelled"
        gate.set()
        everything = set(range(100)) | accepted
        await eventually(
            lambda: set(probe.numbers) == everything, saw=lambda: everything - {*probe.numbers}
        )

        async def is_done() -> bool:
            return await _pending(group.replica) == 0

        await eventually(is_done)
        assert bus.health().healthy
    assert not set(range(20)) & {n for n in probe.numbers if probe.numbers.count(n) > 1}
    states = [line for line in caplog.messages if "connect" in line]
    assert len(states) == len(set(states)), "each reason once"
    for once in (" is connected again after", " lost its connection: "):
        assert sum(once in line for line in states) == 1, states
