"""More dead letters than one reader may have in flight at once, or than are asked for one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from events.integration.brokering.dead_letters import record_of
from events.integration.implementation.nats._api import DeniedError
from events.integration.implementation.rabbitmq import _dead_letters as rabbitmq_dead_letters
from events.integration.implementation.rabbitmq._driver import new_properties
from events.integration.implementation.rabbitmq._topology import dead_letters
from events.integration.implementation.rabbitmq._wire import dead as as_dead
from events.integration.implementation.redis import _dead_letters as redis_dead_letters
from events.integration.implementation.redis._entries import Keys
from events.integration.message import Delivery, Reject
from events.operations import DeadLetters, Selection
from events.testing.contracts.scenario import Scenario
from tests.brokers.rabbitmq_server import RabbitMQHarness, rabbitmq_url
from tests.brokers.redis_server import redis_url
from tests.contracts.nats_harness import NatsHarness
from tests.contracts.test_redis_streams_bus import StreamsHarness

__all__ = ["rabbitmq_url"]

Keep = Callable[[int], Awaitable[None]]


def rejected(consumer: str, number: int) -> tuple[Delivery, Reject]:
    headers = {"ce-type": "many"}
    delivery = Delivery("many", consumer, f"id{number}", b"%d" % number, headers)
    return delivery, Reject("retries-exhausted", f"ValueError: no {number}", 1)


async def fill(keep: Keep, count: int) -> None:
    for start in range(0, count, 1_000):
        await asyncio.gather(*(keep(n) for n in range(start, min(count, start + 1_000))))


async def all_of(letters: DeadLetters) -> list[bytes]:
    return [letter.message.body async for letter in letters.search()]


async def test_rabbitmq_hands_out_more_than_a_consumer_may_have(
    rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is followed by another then, on the same channel; here it has 400."""
    monkeypatch.setitem(rabbitmq_dead_letters._MOST, "quorum", 400)
    async with Scenario(RabbitMQHarness(rabbitmq_url)) as scenario:
        bus, name = await scenario.started(), scenario.probe().name
        queue = dead_letters(name, "quorum")
        publisher: Any = bus.transport._publisher  # type: ignore[attr-defined]

        async def keep(number: int) -> None:
            delivery, reject = rejected(name, number)
            record = record_of(delivery, reject, type="many")
            properties = as_dead(new_properties(headers={}, message_id=delivery.id), record)
            await publisher.publish(
                "", queue.name, properties, delivery.body, place=queue, mandatory=True
            )

        await fill(keep, 1_300)
        letters = DeadLetters(bus, actor="anna", consumers=[name])
        (group,) = await letters.groups()
        assert (group.count, group.fingerprint) == (1_300, "ValueError: no #")
        assert sorted(await all_of(letters), key=int) == [b"%d" % n for n in range(1_300)]
        moved = letters.discard(Selection(), consumer=name, batch=700)
        assert [(step.done, step.total) async for step in moved] == [
            (0, 1_300),
            (700, 1_300),
            (1_300, 1_300),
        ]
        assert await letters.groups() == []


@pytest.mark.parametrize("allowed", [True, False])
async def test_nats_reads_many_at_once_or_one_by_one_alike(
    allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Scenario(NatsHarness()) as scenario:
        bus, name, other = await scenario.started(), scenario.probe().name, scenario.probe("b").name
        store: Any = bus.transport.dead_letters

        async def keep(number: int) -> None:
            for consumer in (name, other):
                delivery, reject = rejected(consumer, number)
                headers = dict(delivery.headers)
                await store.keep(delivery, headers, "many", f"{consumer}{number}", reject)

        await fill(keep, 300)
        one_by_one = [await bus.dead_letters(name, limit=1)]
        request, asked = store._api.request, list[str]()

        async def watched(verb: str, *given: Any) -> Any:
            asked.append(verb)
            if not allowed and verb.startswith("CONSUMER.CREATE"):
                raise DeniedError("nats", "permissions violation")
            return await request(verb, *given)

        monkeypatch.setattr(store._api, "request", watched)
        page = await bus.dead_letters(name, limit=250)
        assert len([verb for verb in asked if "MSG.GET" in verb]) == (0 if allowed else 250)
        rest = await bus.dead_letters(name, limit=250, after=page[-1].id)
        assert (len(page), len(rest)) == (250, 50)
        assert page[:1] == one_by_one[0]
        found = [*page, *rest]
        assert sorted(int(letter.message.body) for letter in found) == list(range(300))
        assert {letter.consumer for letter in found} == {name}
        assert [int(letter.id) for letter in found] == sorted(int(letter.id) for letter in found)
        asked.clear()
        (group,) = await DeadLetters(bus, actor="anna", consumers=[name]).groups()
        assert (group.count, group.fingerprint) == (300, "ValueError: no #")
        assert (group.first, group.last) == (
            min(letter.died_at for letter in found),
            max(letter.died_at for letter in found),
        )
        assert len([verb for verb in asked if "MSG.GET" in verb]) == (0 if allowed else 301)
        heads = [head async for some in store.scan_heads(name) for head in some]
        assert [(head.id, head.error) for head in heads] == [(e.id, e.error) for e in found]
        assert {head.message.body == b"" for head in heads} == {allowed}
        monkeypatch.setattr(store, "_may_pull", False)
        assert await bus.dead_letters(name, limit=250) == page
        assert await bus.dead_letters("nobody", limit=250) == []


async def test_redis_groups_what_others_wrote_among_what_it_cannot_hold_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server reads entries of 4 MiB for one answer; here it is so little that it reads ten."""
    monkeypatch.setattr(redis_dead_letters, "_READ_BYTES", 1)
    async with Scenario(StreamsHarness()) as scenario:
        topic, probe = scenario.topic(), scenario.probe()
        bus = await scenario.started(scenario.registration(probe, topic))
        dead = Keys(topic.name, probe.name).dead
        async with Redis.from_url(redis_url()) as redis:
            for number in range(25):
                delivery, reject = rejected(probe.name, number)
                record = record_of(delivery, reject, type="many")
                event: dict[Any, Any] = {**record, "data": "x" * 10, "ce-type": "many"}
                await redis.xadd(dead, event)
                await redis.xadd(dead, {"what": b"\xff"})
        listed = await bus.dead_letters(probe, limit=100)
        store: Any = bus.transport.dead_letters
        heads = [head async for some in store.scan_heads(probe.name) for head in some]
        assert [(h.id, h.reason, h.error, h.died_at) for h in heads] == [
            (e.id, e.reason, e.error, e.died_at) for e in listed
        ]
        assert {head.message.body for head in heads} == {b""}
        groups = await DeadLetters(bus, actor="anna", consumers=[probe.name]).groups()
        assert {(g.count, g.type, g.fingerprint) for g in groups} == {
            (25, "many", "ValueError: no #"),
            (25, "", ""),
        }
