"""What is Redis Streams' own: its keys, who else reads and writes them, and what can be done to them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import Sentinel

from events.errors import (
    BusError,
    BusUnavailableError,
    EventEncodeError,
    InvalidTopologyError,
    SendRefusedError,
)
from events.integration.implementation.redis import RedisStreamsIntegrationEventBus
from events.integration.implementation.redis._connecting import DisconnectedError
from events.integration.implementation.redis._group import StreamConsumer
from events.integration.implementation.redis._groups import Groups
from events.integration.implementation.redis._link import Link
from events.integration.implementation.redis._scripts import NOBODY
from events.integration.topology import IntegrationEventBusRegistration, RetryPolicy, Topic
from events.testing import eventually
from events.testing.contracts import Numbered, Probe
from tests.brokers.redis_server import RedisServer, SentinelServer, redis_url

TIMEOUT = 120.0


@pytest.fixture
# Any: the driver's annotations cover both forms of each answer, bytes and text.
async def redis() -> AsyncGenerator[Any, None]:
    async with Redis.from_url(redis_url()) as redis:
        yield redis


@pytest.fixture
async def topic(redis: Any) -> AsyncGenerator[Topic, None]:
    topic = Topic(f"streams-{uuid4().hex[:12]}")
    yield topic
    keys = [key async for key in redis.scan_iter(match=f"*{topic.name}*")]
    await redis.delete(topic.name, *keys)


@pytest.fixture
async def name(redis: Any) -> AsyncGenerator[str, None]:
    name = f"consumer-{uuid4().hex[:12]}"
    yield name
    keys = [key async for key in redis.scan_iter(match=f"*{name}*")]
    await redis.delete(name, *keys)


def new_bus(**options: Any) -> RedisStreamsIntegrationEventBus:
    return RedisStreamsIntegrationEventBus(redis_url(), **options)


def on(probe: Probe, topic: Topic, **options: Any) -> IntegrationEventBusRegistration:
    return IntegrationEventBusRegistration(probe, topic, [Numbered], **options)


async def fail(_: Numbered) -> None:
    raise RuntimeError("it always fails")


# --- other programs -----------------------------------------------------------------------------


async def test_a_bare_event_of_another_program_is_read(redis: Any, topic: Topic, name: str) -> None:
    probe = Probe(name)
    body = {"type": Numbered.type, "version": 1, "number": 7}
    entry = await redis.xadd(topic.name, {"data": json.dumps(body)})
    async with new_bus() as bus:
        await bus.register(on(probe, topic))
        await eventually(lambda: probe.handled == [Numbered(7)])
    assert probe.arrivals[0].delivery.id == entry.decode()


async def test_a_bare_event_keeps_its_id_through_retries(
    redis: Any, topic: Topic, name: str
) -> None:
    probe = Probe(name, fail)
    body = {"type": Numbered.type, "version": 1, "number": 7}
    entry = await redis.xadd(topic.name, {"data": json.dumps(body), "x-own": "kept"})
    async with new_bus() as bus:
        retry = RetryPolicy(attempts=3, delay=0.01, in_place=0)
        await bus.register(on(probe, topic, retry=retry))

        async def letters() -> bool:
            return len(await bus.dead_letters(name)) == 1

        await eventually(letters)
        (letter,) = await bus.dead_letters(name)
    assert {arrival.delivery.id for arrival in probe.arrivals} == {entry.decode()}
    assert letter.message.id == entry.decode()
    assert letter.message.headers == {"x-own": "kept"}


async def test_another_program_reads_the_body(redis: Any, topic: Topic) -> None:
    async with new_bus() as bus:
        await bus.send(topic, Numbered(7), headers={"x-own": "kept"})
    ((_, fields),) = await redis.xrange(topic.name)
    assert json.loads(fields[b"data"])["number"] == 7
    assert fields[b"ce-type"].decode() == Numbered.type
    assert fields[b"x-own"] == b"kept"


async def test_a_foreign_header_may_have_the_name_of_the_body(
    redis: Any, topic: Topic, name: str
) -> None:
    probe = Probe(name)
    async with new_bus() as bus:
        await bus.register(on(probe, topic))
        with pytest.raises(
            EventEncodeError, match="its name is reserved for the body, in a Redis stream"
        ):
            await bus.send(topic, Numbered(7), headers={"data": "a header"})
        body = f'{{"type":"{Numbered.type}","version":1,"number":7}}'
        fields = "data", body, "data", "a header", "events-id", "another"
        await redis.execute_command("XADD", topic.name, "*", *fields)
        await eventually(lambda: probe.handled == [Numbered(7)])
    headers = probe.arrivals[0].delivery.headers
    assert (headers["data"], headers["events-id"]) == ("a header", "another")


@pytest.mark.parametrize("count", [5, 5_000])
@pytest.mark.parametrize("first", ["data", "events-packed"])
async def test_any_number_of_foreign_fields_is_retried_kept_and_redriven(
    redis: Any, topic: Topic, name: str, count: int, first: str
) -> None:
    """Scripts copy an entry; Lua passes no more than 8,000 arguments to a function."""

    async def fail_at_first(event: Numbered) -> None:
        if len(probe.arrivals) <= 2:
            raise RuntimeError(event)

    probe = Probe(name, fail_at_first)
    body = f'{{"type":"{Numbered.type}","version":1,"number":7}}'
    fields = {first: body, "data": body} | {f"x-{number}": "kept" for number in range(count)}
    headers = {n: v for n, v in fields.items() if n != "data"}
    await redis.xadd(topic.name, fields)
    async with new_bus() as bus:
        retry = RetryPolicy(attempts=2, delay=0.01, in_place=0)
        await bus.register(on(probe, topic, retry=retry))
        await eventually(lambda: bus.dead_letters(name), TIMEOUT)
        (letter,) = await bus.dead_letters(name)
        assert (letter.message.body.decode(), letter.message.headers) == (body, headers)
        await bus.redrive(name, [letter.id])
        await eventually(lambda: probe.handled == [Numbered(7)], TIMEOUT)
    assert [arrival.delivery.headers for arrival in probe.arrivals] == [headers] * 3


# --- keys that others touch -----------------------------------------------------------------------


@pytest.mark.parametrize("first", ["reader", "upkeep"])
@pytest.mark.parametrize("verb", ["stream", "group"])
async def test_what_was_deleted_is_made_again_loudly(
    verb: str,
    first: str,
    redis: Any,
    topic: Topic,
    name: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_again = Groups.make_again

    async def behind_the_upkeep(groups: Groups) -> None:
        await groups.declare()
        await make_again(groups)

    if first == "upkeep":
        monkeypatch.setattr(Groups, "make_again", behind_the_upkeep)
    probe = Probe(name)
    async with new_bus() as bus:
        await bus.register(on(probe, topic))
        await bus.send(topic, Numbered(1))
        await eventually(lambda: probe.numbers == [1])
        if verb == "stream":
            await redis.delete(topic.name)
        else:
            await redis.xgroup_destroy(topic.name, name)
        await bus.send(topic, Numbered(2))
        await eventually(lambda: 2 in probe.numbers, TIMEOUT)
        assert bus.health().healthy
    loud = [r.getMessage() for r in caplog.records if "has been recreated" in r.getMessage()]
    assert len(loud) == 1, loud


async def test_what_was_made_again_is_logged_though_the_answer_was_lost(
    redis: Any,
    topic: Topic,
    name: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_group, losses = Groups._make_group, list[str]()

    async def lost(groups: Groups, stream: str, begin: str) -> bool:
        made = await make_group(groups, stream, begin)
        if stream == topic.name and made and not losses:
            losses.append(stream)
            raise DisconnectedError("the answer is lost", sent=True)
        return made

    async with new_bus(lease=0.3) as bus:
        await bus.register(on(Probe(name), topic))
        monkeypatch.setattr(Groups, "_make_group", lost)
        await redis.delete(topic.name)
        await eventually(lambda: "has been recreated from the start" in caplog.text, TIMEOUT)
    assert losses == [topic.name]


async def test_a_key_of_another_type_is_a_clear_error(redis: Any, topic: Topic, name: str) -> None:
    await redis.set(topic.name, "no stream")
    async with new_bus() as bus:
        with pytest.raises(InvalidTopologyError, match="holds another type"):
            await bus.register(on(Probe(name), topic))
        with pytest.raises(SendRefusedError, match="WRONGTYPE"):
            await bus.send(topic, Numbered(1))


async def test_an_ack_that_failed_is_tried_again(
    redis: Any, topic: Topic, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    user = f"user-{uuid4().hex[:12]}"
    rules = ["ACL", "SETUSER", user, "on", "nopass", "~*", "&*", "+@all"]
    await redis.execute_command(*rules, "-xack")
    probe = Probe(name)
    url = redis_url().replace("redis://", f"redis://{user}:any@")
    try:
        async with RedisStreamsIntegrationEventBus(url) as bus:
            await bus.register(on(probe, topic))
            await bus.send(topic, Numbered(1))
            await eventually(lambda: "acknowledge" in caplog.text)
            await redis.execute_command(*rules)

            async def acknowledged() -> bool:
                (group,) = await redis.xinfo_groups(topic.name)
                return bool(group["pending"] == 0)

            await eventually(acknowledged, TIMEOUT)
            assert probe.numbers == [1]
    finally:
        await redis.execute_command("ACL", "DELUSER", user)


async def test_what_asyncio_raises_on_a_lost_connection_does_not_end_the_bus(
    topic: Topic, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = Probe(name)
    async with new_bus() as bus:
        await bus.register(on(probe, topic))
        await bus.send(topic, Numbered(1))
        write = AbstractConnection.send_packed_command

        async def fail_once(*_: Any, **__: Any) -> None:
            monkeypatch.setattr(AbstractConnection, "send_packed_command", write)
            raise TypeError("'NoneType' object is not callable")

        monkeypatch.setattr(AbstractConnection, "send_packed_command", fail_once)
        with suppress(BusError):  # whichever of its connections it was
            await bus.send(topic, Numbered(2))
        await eventually(lambda: bus.health().connected, TIMEOUT)
        await bus.send(topic, Numbered(3))
        await eventually(lambda: {1, 3} <= set(probe.numbers), TIMEOUT)


# --- housekeeping -----------------------------------------------------------------------------


async def test_what_all_groups_have_passed_is_trimmed_and_nothing_else(
    redis: Any, topic: Topic, name: str
) -> None:
    gate = asyncio.Event()
    swift, slow = Probe(f"{name}-swift"), Probe(f"{name}-slow", lambda _: gate.wait())
    async with new_bus(lease=0.3) as bus:
        await bus.register(on(swift, topic))
        await bus.register(on(slow, topic))
        await bus.send_many(topic, map(Numbered, range(1000)))
        await eventually(lambda: len(swift.handled) == 1000)
        await asyncio.sleep(0.3)  # three looks, at which nothing must happen
        assert await redis.xlen(topic.name) == 1000
        gate.set()
        await eventually(lambda: len(slow.handled) == 1000)

        async def trimmed() -> bool:
            return bool(await redis.xlen(topic.name) <= 200)  # it goes by nodes of a hundred

        await eventually(trimmed, TIMEOUT)
    assert slow.numbers == list(range(1000))


async def test_a_length_bound_is_kept(redis: Any, topic: Topic) -> None:
    async with new_bus(max_length=100) as bus:
        await bus.send_many(topic, map(Numbered, range(1000)))
    assert await redis.xlen(topic.name) < 300


async def test_consumer_ids_that_died_empty_are_swept(redis: Any, topic: Topic, name: str) -> None:
    await redis.xgroup_create(topic.name, name, mkstream=True)
    await redis.xgroup_createconsumer(topic.name, name, "long-dead")
    async with new_bus(lease=0.1) as bus:
        await bus.register(on(Probe(name), topic))
        script = "redis.call('XGROUP', 'CREATECONSUMER', KEYS[1], ARGV[1], 'nobody')"
        await redis.eval(script, 1, topic.name, name)

        async def swept() -> bool:
            consumers = await redis.xinfo_consumers(topic.name, name)
            return b"nobody" not in {consumer["name"] for consumer in consumers}

        await eventually(swept, TIMEOUT)


async def test_a_name_may_begin_with_what_is_new(redis: Any, topic: Topic, name: str) -> None:
    probe = Probe(name)
    async with new_bus(start="newest") as bus:
        await bus.send(topic, Numbered(1))
        await bus.register(on(probe, topic))
        await bus.send(topic, Numbered(2))
        await eventually(lambda: probe.numbers)
    assert probe.numbers == [2]


async def test_a_slow_consumer_leaves_work_to_others(topic: Topic, name: str) -> None:
    async def slowly(_: Numbered) -> None:
        await asyncio.sleep(0.1)

    probes = [Probe(name, slowly), Probe(name, slowly)]
    async with new_bus() as one, new_bus() as two:
        await one.register(on(probes[0], topic))
        await two.register(on(probes[1], topic))
        await one.send_many(topic, map(Numbered, range(10)))
        await eventually(lambda: sum(len(probe.handled) for probe in probes) == 10)
    assert min(len(probe.handled) for probe in probes) >= 3


@pytest.mark.parametrize("reconnects", [False, True])
async def test_a_consumer_without_room_takes_nothing_over_and_reads_nothing_before_it(
    redis: Any, topic: Topic, name: str, reconnects: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, claims, gate = StreamConsumer.claim, list[StreamConsumer](), asyncio.Event()

    async def counted(consumer: StreamConsumer, *, own: bool = False) -> None:
        await claim(consumer, own=own)
        claims.append(consumer)

    monkeypatch.setattr(StreamConsumer, "claim", counted)
    probe = Probe(name, lambda _: gate.wait())
    async with new_bus(lease=0.3) as bus:
        await bus.register(on(probe, topic))
        await bus.send(topic, Numbered(0))
        await eventually(lambda: probe.running)
        await bus.send_many(topic, map(Numbered, range(1, 6)))
        [(_, entries)] = await redis.xreadgroup(name, NOBODY, {topic.name: ">"})
        ids = [number for number, _ in entries]
        await redis.xclaim(topic.name, name, NOBODY, 0, ids, idle=3_600_000)
        seen = len(claims)
        await eventually(lambda: len(claims) > seen + 3, TIMEOUT)
        left = await redis.xpending_range(topic.name, name, "-", "+", 10, NOBODY)
        assert [each["message_id"] for each in left] == ids
        await bus.send(topic, Numbered(6))
        if reconnects:
            reader = claims[-1]._reader
            before = reader.generation
            await redis.client_kill_filter(_id=reader.greeted[1])
            await eventually(lambda: reader.generation > before, TIMEOUT)
        gate.set()
        await eventually(lambda: len(probe.handled) == 7, TIMEOUT)
    assert probe.numbers == list(range(7))


async def test_what_a_shutdown_gave_back_comes_first_and_in_order(topic: Topic, name: str) -> None:
    gate = asyncio.Event()
    async with new_bus() as sender:
        held = Probe(name, lambda _: gate.wait())
        async with new_bus() as bus:
            # All of one key: the bus has some in flight that it has not begun.
            await bus.register(on(held, topic, concurrency=4, order_by=lambda _: "key"))
            await sender.send_many(topic, map(Numbered, range(40)))
            await eventually(lambda: held.running)
            await bus.shutdown(grace=0)
        await sender.send_many(topic, map(Numbered, range(40, 50)))
        probe = Probe(name)
        async with new_bus() as bus:
            await bus.register(on(probe, topic))
            await eventually(lambda: len(probe.numbers) == 50)
    assert probe.numbers == list(range(50))
    assert set(probe.attempts) == {1}


# --- dead letters over topics ---------------------------------------------------------------------


async def test_dead_letters_of_two_topics_are_one_list(topic: Topic, name: str, redis: Any) -> None:
    other = Topic(f"{topic.name}-b")
    probe = Probe(name, fail)
    async with new_bus() as bus:
        for each in (topic, other):
            await bus.register(on(probe, each, retry=RetryPolicy(attempts=1)))
        for number in range(6):
            await bus.send((topic, other)[number % 2], Numbered(number))
            await eventually(lambda n=number: len(probe.arrivals) == n + 1)  # type: ignore[misc]

        async def all_there() -> bool:
            return len(await bus.dead_letters(name)) == 6

        await eventually(all_there)
        paged: list[Any] = []
        while page := await bus.dead_letters(name, limit=2, after=paged[-1].id if paged else None):
            paged += page
        assert paged == await bus.dead_letters(name)
        assert {letter.message.topic for letter in paged} == {topic.name, other.name}
        probe.react = None
        assert await bus.redrive(name, paged) == 6
        await eventually(lambda: sorted(probe.numbers) == list(range(6)))


# --- how to connect -------------------------------------------------------------------------------


async def test_a_master_behind_sentinel(tmp_path: Path) -> None:
    topic = Topic("sentinel")
    with RedisServer(tmp_path / "redis") as server, SentinelServer(tmp_path / "sentinel") as watch:
        await asyncio.to_thread(watch.monitor, server)
        sentinel = cast("Any", Sentinel)([("127.0.0.1", watch.port)])
        probe = Probe("one")
        client = sentinel.master_for("main")
        async with RedisStreamsIntegrationEventBus(client, [on(probe, topic)]) as bus:
            await bus.send(topic, Numbered(1))
            await eventually(lambda: probe.numbers == [1])
        await client.aclose()
        for each in sentinel.sentinels:
            await each.aclose()


async def test_a_client_that_was_given_stays_open(topic: Topic, name: str) -> None:
    async with Redis.from_url(redis_url(), decode_responses=True, protocol=3) as client:
        probe = Probe(name)
        async with RedisStreamsIntegrationEventBus(client, [on(probe, topic)]) as bus:
            await bus.send(topic, Numbered(1))
            await eventually(lambda: probe.numbers == [1])
        assert await client.ping()


@pytest.mark.parametrize("url", ["redis+cluster://host", "sentinel://host", "host:6379"])
def test_what_it_cannot_connect_to_is_refused(url: str) -> None:
    with pytest.raises(InvalidTopologyError, match="redis, rediss or unix"):
        RedisStreamsIntegrationEventBus(url)


def test_a_cluster_client_is_refused() -> None:
    client: Any = RedisCluster.__new__(RedisCluster)
    with pytest.raises(InvalidTopologyError, match="neither a URL nor a redis.asyncio.Redis"):
        RedisStreamsIntegrationEventBus(client)


def test_a_password_is_never_shown() -> None:
    bus = RedisStreamsIntegrationEventBus("redis://me:secret@host/0?password=secret")
    assert "secret" not in repr(bus)
    assert "me:***@host" in repr(bus)


async def test_wrong_credentials_are_reported_at_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = redis_url().replace("redis://", "redis://nobody-of-this-name:secret@")
    bus = RedisStreamsIntegrationEventBus(url, connect_timeout=60)
    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(BusUnavailableError):
            await bus.startup()
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (b"redis_version:6.0.16\r\nredis_mode:standalone\r\n", "needs Redis 6.2 or newer, not 6.0"),
        (b"redis_version:7.0.15\r\nredis_mode:cluster\r\n", "Redis Cluster is not supported"),
    ],
)
async def test_a_server_that_cannot_serve_is_refused(
    info: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Link.call

    def answer(link: Link, *command: Any, **options: Any) -> Any:
        if command[0] != "INFO":
            return call(link, *command, **options)
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        answered.set_result(info)
        return answered

    monkeypatch.setattr(Link, "call", answer)
    with pytest.raises(InvalidTopologyError, match=reason):
        await new_bus().startup()
