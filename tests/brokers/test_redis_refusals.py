"""What Redis refuses, loses or limits while the bus runs: nothing is lost over it, its words are kept.

Each test has a server of its own.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from events.errors import BatchSendError, BusUnavailableError, SendRefusedError
from events.integration.brokering.problems import MOST_LINES
from events.integration.brokering.read_ahead import READ_AHEAD
from events.integration.implementation.redis import (
    RedisPubSubIntegrationEventBus,
    RedisStreamsIntegrationEventBus,
)
from events.integration.implementation.redis._group import StreamConsumer
from events.integration.implementation.redis._link import Link
from events.integration.outbox import OutboxRelay, OutboxRow
from events.integration.serialization import Serializer
from events.integration.topology import IntegrationEventBusRegistration, RetryPolicy, Topic
from events.testing import eventually
from events.testing.contracts import Numbered, Probe
from tests.brokers.redis_server import RedisServer, ReplicaServer
from tests.unit.integration_events.outbox_table import Table

ORDERS, AUDIT = Topic("orders"), Topic("audit")
NAME = "billing"
TIMEOUT = 120.0
ONCE = RetryPolicy(attempts=1)


@pytest.fixture
def server(tmp_path: Path) -> Generator[RedisServer, None, None]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
async def redis(server: RedisServer) -> AsyncGenerator[Any, None]:
    async with Redis.from_url(server.url) as redis:
        yield redis


def new_bus(server: RedisServer, *probes: Probe, **options: Any) -> RedisStreamsIntegrationEventBus:
    registrations = [on(probe) for probe in probes]
    settings: dict[str, Any] = {"lease": 0.9, "connect_timeout": 60.0, "send_timeout": 60.0}
    url = options.pop("url", server.url)
    return RedisStreamsIntegrationEventBus(url, registrations, **settings | options)


def on(probe: Probe, **options: Any) -> IntegrationEventBusRegistration:
    return IntegrationEventBusRegistration(probe, ORDERS, [Numbered], **options)


async def fail(_: Numbered) -> None:
    raise RuntimeError("it always fails")


async def fill(redis: Any, bus: RedisStreamsIntegrationEventBus) -> None:
    """Send until the server is full."""
    used = (await redis.info("memory"))["used_memory"]
    await redis.config_set("maxmemory", used + 2_000_000)
    outcome: BaseException | None = None
    while outcome is None:
        batch = [Numbered(1, text="x" * 500)] * 100
        sending = bus.send_many(ORDERS, batch)
        (outcome,) = await asyncio.gather(sending, return_exceptions=True)
    assert isinstance(outcome, BatchSendError)
    assert "OOM command not allowed" in str(outcome.failures)


def errors(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if text in r.getMessage()]


# --- a full server --------------------------------------------------------------------------------


async def test_a_consumer_of_a_full_server_starts_and_empties_it(
    server: RedisServer, redis: Any
) -> None:
    async with new_bus(server, Probe(NAME)):
        pass  # its group is made
    async with new_bus(server) as producer:
        await fill(redis, producer)

        async def send_on() -> None:
            for _ in range(10_000):  # what held the last batch may be free again
                await producer.send(ORDERS, Numbered(0, text="x" * 500))

        with pytest.raises(BusUnavailableError, match="OOM command not allowed"):
            await send_on()
        assert "OOM command not allowed" in (producer.health().error or "")
        probe = Probe(NAME)
        async with new_bus(server, probe):

            async def accepted() -> bool:
                try:
                    await producer.send(ORDERS, Numbered(-1))
                except BusUnavailableError:
                    return False
                return True

            await eventually(accepted, TIMEOUT)
            await eventually(lambda: -1 in probe.numbers, TIMEOUT)
        assert producer.health().error is None


async def test_a_retry_that_is_due_on_a_full_server_keeps_nothing_from_being_trimmed(
    server: RedisServer, redis: Any
) -> None:
    gate = asyncio.Event()

    async def react(event: Numbered) -> None:
        if event.number == 0:
            raise RuntimeError("not yet")
        await gate.wait()

    probe = Probe(NAME, react)
    retry = RetryPolicy(attempts=1_000, delay=0.2, factor=1, jitter=0, in_place=0)
    async with new_bus(server, retry=retry) as bus:
        await bus.register(on(probe, concurrency=2))
        await bus.send(ORDERS, Numbered(0))
        await eventually(lambda: redis.exists(f"events:{{{ORDERS.name}}}:{NAME}:later"), TIMEOUT)
        await fill(redis, bus)
        gate.set()
        await eventually(lambda: sent(bus, 1), TIMEOUT)
        before = len(probe.arrivals)
        await eventually(lambda: 0 in [a.event.number for a in probe.arrivals[before:]], TIMEOUT)


@pytest.mark.parametrize("attempts", [1, 1_000])
async def test_what_fails_on_a_full_server_keeps_nothing_from_being_trimmed(
    attempts: int, server: RedisServer, redis: Any
) -> None:
    gate = asyncio.Event()

    async def react(event: Numbered) -> None:
        await gate.wait()
        if event.number == 0:
            raise RuntimeError("not yet")

    probe = Probe(NAME, react)
    retry = RetryPolicy(attempts=attempts, delay=0.2, factor=1, jitter=0, in_place=0)
    async with new_bus(server, retry=retry) as bus:
        await bus.register(on(probe, concurrency=2))
        await bus.send(ORDERS, Numbered(0))
        await fill(redis, bus)
        gate.set()
        await eventually(lambda: sent(bus, 1), TIMEOUT)
        await eventually(lambda: 1 in probe.numbers, TIMEOUT)
        if attempts == 1:
            await eventually(lambda: letters(bus, 1), TIMEOUT)
        else:
            again = lambda: max(a.delivery.attempt for a in probe.arrivals) > 1  # noqa: E731
            await eventually(again, TIMEOUT)


async def sent(bus: RedisStreamsIntegrationEventBus, number: int) -> bool:
    try:
        await bus.send(ORDERS, Numbered(number, text="x" * 500))
    except BusUnavailableError:
        return False
    return True


async def test_a_group_that_a_full_server_cannot_hold_is_no_mistake_of_ours(
    server: RedisServer, redis: Any
) -> None:
    await redis.config_set("maxmemory", 1)
    with pytest.raises(BusUnavailableError, match="OOM"):
        await new_bus(server, Probe(NAME)).startup()


@pytest.mark.parametrize(
    ("policy", "limit", "lines"),
    [("allkeys-lru", "100mb", 1), ("allkeys-random", 0, 0), ("noeviction", "100mb", 0),
     ("volatile-lru", "100mb", 0)],
)  # fmt: skip
async def test_a_server_that_removes_any_key_is_warned_of(
    policy: str,
    limit: object,
    lines: int,
    server: RedisServer,
    redis: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await redis.config_set("maxmemory-policy", policy)
    await redis.config_set("maxmemory", limit)
    async with new_bus(server):
        pass
    assert len(errors(caplog, f"maxmemory-policy {policy}")) == lines


# --- what is lost ---------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["all", "topics", "restart"])
async def test_dead_letters_are_listed_after_every_kind_of_loss(
    loss: str, server: RedisServer, redis: Any
) -> None:
    probe = Probe(NAME, fail)
    async with new_bus(server, probe, retry=ONCE) as bus:
        await bus.send(ORDERS, Numbered(1))
        await eventually(lambda: letters(bus, 1), TIMEOUT)
        if loss == "all":
            await redis.flushall()
        elif loss == "topics":
            await redis.delete(f"events:{{{NAME}}}:topics")
        else:
            server.kill()
            await eventually(lambda: not bus.health().connected, TIMEOUT)
            for file in server.folder.rglob("*.aof"):
                file.unlink()
            for file in server.folder.rglob("*.manifest"):
                file.unlink()
            server.start()
            await eventually(lambda: bus.health().healthy, TIMEOUT)
        await bus.send(ORDERS, Numbered(2))
        await eventually(lambda: letters(bus, 1 if loss != "topics" else 2), TIMEOUT)
        assert probe.arrivals[-1].event.number == 2


async def letters(bus: RedisStreamsIntegrationEventBus, count: int) -> bool:
    return len(await bus.dead_letters(NAME)) == count


async def test_dead_letters_from_before_a_loss_are_listed_again(
    server: RedisServer, redis: Any
) -> None:
    async with new_bus(server, Probe(NAME, fail), retry=ONCE) as bus:
        await bus.send(ORDERS, Numbered(1))
        await eventually(lambda: letters(bus, 1), TIMEOUT)
    await redis.delete(f"events:{{{NAME}}}:topics")
    async with new_bus(server, Probe(NAME)) as bus:
        await eventually(lambda: letters(bus, 1), TIMEOUT)


# --- what is refused ------------------------------------------------------------------------------


async def as_user(redis: Any, *rules: str) -> None:
    await redis.execute_command(
        *("ACL", "SETUSER", "shop", "reset", "on", ">secret", "+@all", "&*"), *(rules or ("~*",))
    )


def url_of(server: RedisServer) -> str:
    return server.url.replace("//", "//shop:secret@")


async def test_a_topic_that_must_not_be_written_costs_the_others_nothing(
    server: RedisServer, redis: Any
) -> None:
    await as_user(redis, "~orders", "~events:*")
    probe = Probe(NAME)
    async with new_bus(server, probe, url=url_of(server)) as bus:
        outcomes = await asyncio.gather(
            bus.send(ORDERS, Numbered(1)),
            bus.send(AUDIT, Numbered(2)),
            bus.send(ORDERS, Numbered(3)),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [
            type(None), SendRefusedError, type(None)
        ]  # fmt: skip
        assert "to topic 'audit': NOPERM" in str(outcomes[1])
        assert "cannot send to 'audit': NOPERM" in (bus.health().error or "")
        assert bus.health().healthy
        await eventually(lambda: probe.numbers == [1, 3], TIMEOUT)
        await as_user(redis)
        await bus.send(AUDIT, Numbered(4))
        assert bus.health().error is None


async def test_the_outbox_parks_what_is_refused_for_good(server: RedisServer, redis: Any) -> None:
    await as_user(redis, "~orders", "~events:*")
    table, encode = Table(), Serializer("/test").encode
    topics = [AUDIT if number == 3 else ORDERS for number in range(6)]
    for number, topic in enumerate(topics):
        message = encode(topic.name, Numbered(number))
        table.rows[number] = OutboxRow(number, message)
    async with new_bus(server, url=url_of(server)) as bus, OutboxRelay(table, bus) as relay:
        await relay.drain()
    assert list(table.in_parking) == [3]
    assert "NOPERM" in table.in_parking[3].error
    assert await redis.xlen("orders") == 5


async def test_a_channel_that_must_not_be_written_is_refused_for_good(
    server: RedisServer, redis: Any
) -> None:
    await redis.execute_command("ACL", "SETUSER", "shop", "on", ">secret", "+@all", "&orders")
    async with RedisPubSubIntegrationEventBus(url_of(server)) as bus:
        await bus.send(ORDERS, Numbered(1))
        with pytest.raises(SendRefusedError, match="NOPERM"):
            await bus.send(AUDIT, Numbered(2))
        assert "NOPERM" in (bus.health().error or "")


@pytest.mark.parametrize("denied", ["-xreadgroup", "-xack", "-evalsha -eval", "-xpending"])
async def test_a_permission_that_is_taken_away_is_reported_and_retried(
    denied: str, server: RedisServer, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await as_user(redis)
    probe = Probe(NAME)
    async with new_bus(server, probe, url=url_of(server)) as bus:
        await bus.send(ORDERS, Numbered(1))
        await eventually(lambda: probe.numbers == [1], TIMEOUT)
        await as_user(redis, "~*", *denied.split())
        await bus.send(ORDERS, Numbered(2))
        await eventually(lambda: not bus.health().healthy, TIMEOUT)
        error = bus.health().consumers[0].error or ""
        assert "NOPERM" in error or "can't run this command" in error, error
        assert errors(caplog, error.split("; ")[0])
        await as_user(redis)
        await eventually(lambda: bus.health().healthy, TIMEOUT)
        await bus.send(ORDERS, Numbered(3))
        await eventually(lambda: {1, 2, 3} <= set(probe.numbers), TIMEOUT)


# --- what changes behind the connection -----------------------------------------------------------


async def test_a_master_that_becomes_a_replica_is_not_connected_until_it_is_one_again(
    server: RedisServer, redis: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "events.integration")
    probe = Probe(NAME)
    async with new_bus(server, probe) as bus:
        await bus.send(ORDERS, Numbered(1))
        await eventually(lambda: probe.numbers == [1], TIMEOUT)
        caplog.clear()
        with RedisServer(tmp_path / "other") as other:
            await redis.execute_command("REPLICAOF", "127.0.0.1", other.port)
            for _ in range(3):
                with pytest.raises(BusUnavailableError, match=r"(?i)read.?only|replica"):
                    await bus.send(ORDERS, Numbered(2))
                await eventually(lambda: not bus.health().connected, TIMEOUT)
            assert "replica" in (bus.health().error or "")
            assert not bus.health().healthy
            assert len(caplog.records) <= MOST_LINES, caplog.text
            await redis.execute_command("REPLICAOF", "NO", "ONE")
        await eventually(lambda: bus.health().healthy, TIMEOUT)
        await bus.send(ORDERS, Numbered(3))
        await eventually(lambda: 3 in probe.numbers, TIMEOUT)


async def test_a_replica_is_refused_at_startup_where_a_master_is_needed(
    server: RedisServer, tmp_path: Path
) -> None:
    with ReplicaServer(tmp_path / "replica", server) as replica:
        with pytest.raises(BusUnavailableError, match="it is a replica"):
            await new_bus(replica).startup()
        async with RedisPubSubIntegrationEventBus(replica.url) as bus:
            await bus.send(ORDERS, Numbered(1))


async def test_each_reason_is_reported_while_the_server_is_out_of_reach(
    server: RedisServer, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await as_user(redis)
    probe = Probe(NAME)
    async with new_bus(server, probe, url=url_of(server)) as bus:
        server.kill()
        await eventually(lambda: not bus.health().connected, TIMEOUT)
        await eventually(lambda: "Connect call failed" in (bus.health().error or ""), TIMEOUT)
        server.start()  # which has not kept the user
        await eventually(lambda: "password" in (bus.health().error or ""), TIMEOUT)
        assert not bus.health().connected
        async with Redis.from_url(server.url) as another:
            await as_user(another)
        await eventually(lambda: bus.health().healthy, TIMEOUT)
        await bus.send(ORDERS, Numbered(1))
        await eventually(lambda: probe.numbers == [1], TIMEOUT)
    mine = [line for line in errors(caplog, "connect") if line.startswith(repr(bus))]
    assert "password" in "\n".join(mine)
    assert len(mine) == len(set(mine)) <= 5, mine


# --- what is read ahead ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [900_000, 1_000])
async def test_what_is_read_ahead_is_bounded_in_bytes(
    size: int, server: RedisServer, redis: Any
) -> None:
    gate, count = asyncio.Event(), 120

    async def stop_halfway(event: Numbered) -> None:
        if event.number >= count // 2:
            await gate.wait()

    probe = Probe(NAME, stop_halfway)
    async with new_bus(server) as bus:
        for number in range(count):
            await bus.send(ORDERS, Numbered(number, text="x" * size))
        await bus.register(on(probe))
        await eventually(lambda: len(probe.handled) == count // 2, TIMEOUT)

        async def bounded() -> int:
            pending: int = (await redis.xpending("orders", NAME))["pending"]
            assert pending * size <= READ_AHEAD + 2 * size, pending
            return pending

        # Acknowledgements may be on their way; what is read ahead gets no less while it waits.
        in_flight = await eventually(bounded, TIMEOUT)
        assert size > 1_000 or in_flight > 16, "small ones are read in batches"
        gate.set()
        await eventually(lambda: len(probe.handled) == count, TIMEOUT)
        assert probe.numbers == list(range(count))


async def test_large_events_after_small_ones_are_bounded_too(
    server: RedisServer, redis: Any
) -> None:
    gate, small, count, size = asyncio.Event(), 1_000, 120, 900_000

    async def stop_at_the_first_large_one(event: Numbered) -> None:
        if event.number >= small:
            await gate.wait()

    async def all_are_settled() -> bool:
        return not (await redis.xpending("orders", NAME))["pending"]

    probe = Probe(NAME, stop_at_the_first_large_one)
    async with new_bus(server, probe) as bus:
        await bus.send_many(ORDERS, map(Numbered, range(small)))
        await eventually(lambda: len(probe.handled) == small, TIMEOUT)
        await eventually(all_are_settled, TIMEOUT)
        # In one step, so that the read that waits is given as many as it has asked for.
        async with redis.pipeline(transaction=True) as pipeline:
            for number in range(small, small + count):
                body = Numbered(number, text="x" * size).to_dict()
                pipeline.xadd("orders", {"data": json.dumps(body)})
            await pipeline.execute()
        await eventually(lambda: probe.running, TIMEOUT)
        pending = [each["pending"] for each in await redis.xinfo_consumers("orders", NAME)]
        assert sum(pending) <= 32
        gate.set()
        await eventually(lambda: len(probe.handled) >= small + count, TIMEOUT)
        assert probe.numbers == list(range(small + count))


async def test_what_was_given_back_is_taken_in_bounds_too(server: RedisServer, redis: Any) -> None:
    size, count = 900_000, 40
    async with new_bus(server, Probe(NAME)) as bus:
        pass
    async with new_bus(server) as bus:
        for number in range(count):
            await bus.send(ORDERS, Numbered(number, text="x" * size))
    await redis.xreadgroup(NAME, "nobody", {"orders": ">"}, count=count)
    gate = asyncio.Event()
    probe = Probe(NAME, lambda _: gate.wait())
    async with new_bus(server, lease=0.01) as bus:
        await bus.register(on(probe, order_by=lambda event: event.number, concurrency=2))
        await eventually(lambda: len(probe.running) == 2, TIMEOUT)
        names = await redis.xinfo_consumers("orders", NAME)
        mine = sum(each["pending"] for each in names if each["name"] != b"nobody")
        assert mine * size <= READ_AHEAD + 3 * size
        gate.set()
        await eventually(lambda: len(probe.handled) == count, TIMEOUT)


async def test_what_is_in_an_answer_that_comes_late_is_handled_once(
    server: RedisServer, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived, claims, call, claim = asyncio.Event(), 0, Link.call, StreamConsumer.claim

    def arrives_late(link: Link, *args: Any, **options: Any) -> asyncio.Future[Any]:
        async def answer() -> Any:
            reply = await call(link, *args, **options)
            if reply and args[0] == "XREADGROUP":
                await arrived.wait()
            return reply

        return asyncio.ensure_future(answer())

    async def counted(consumer: StreamConsumer, *, own: bool = False) -> None:
        nonlocal claims
        await claim(consumer, own=own)
        claims += 1

    async def is_silent() -> bool:
        return bool(await redis.xpending_range("orders", NAME, "-", "+", 1, idle=1_000))

    probe = Probe(NAME)
    async with new_bus(server) as bus:
        monkeypatch.setattr(Link, "call", arrives_late)
        monkeypatch.setattr(StreamConsumer, "claim", counted)
        await bus.register(on(probe))
        await bus.send(ORDERS, Numbered(0))
        await eventually(is_silent, TIMEOUT)
        before = claims
        await eventually(lambda: claims > before + 1, TIMEOUT)
        arrived.set()
        await bus.send(ORDERS, Numbered(1))
        await eventually(lambda: 1 in probe.numbers, TIMEOUT)
        assert probe.numbers == [0, 1]


async def test_what_a_process_that_died_had_not_begun_is_no_attempt(
    server: RedisServer, redis: Any
) -> None:
    async with new_bus(server, Probe(NAME)) as bus:
        await bus.send_many(ORDERS, map(Numbered, range(20)))
    async with new_bus(server, retry=ONCE, lease=0.2) as bus:
        await bus.send_many(ORDERS, map(Numbered, range(20, 40)))
        await redis.xreadgroup(NAME, "dead", {"orders": ">"}, count=30)
        probe = Probe(NAME)
        await bus.register(on(probe))
        await eventually(lambda: set(range(20, 40)) <= set(probe.numbers), TIMEOUT)
        assert await bus.dead_letters(NAME) == []
