"""Dead letters as an operator works with them, on each bus that keeps them."""

from __future__ import annotations

import asyncio
import re
import tracemalloc
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from events.errors import (
    BusUnavailableError,
    CanaryFailedError,
    InvalidTopologyError,
    NoSuchDeadLetterError,
    UnsupportedByBusError,
)
from events.integration import IntegrationEventBusRegistration, RetryPolicy
from events.integration.health import Backlog
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.implementation.memory import (
    InMemoryBroadcastIntegrationEventBus,
    InMemoryIntegrationEventBus,
)
from events.integration.message import DeadLetter
from events.integration.observation import system_of
from events.integration.pipeline import pausing
from events.integration.topology import Topic
from events.operations import (
    AuditRecord,
    Consumers,
    DeadLetters,
    Progress,
    Selection,
    backlogs,
    check,
    read_lines,
    to_line,
    without_consumers,
)
from events.operations.consumers import Pace, pace
from events.testing import RecordingObserver, eventually
from events.testing.contracts import Harness
from events.testing.contracts.probe import Numbered, Other, Probe
from events.testing.contracts.scenario import Scenario
from tests.brokers.rabbitmq_server import RabbitMQHarness, rabbitmq_url
from tests.contracts.nats_harness import NatsHarness
from tests.contracts.sqlalchemy_bus import AsyncpgHarness, MariaDBHarness, SQLiteHarness
from tests.contracts.test_memory_bus import MemoryHarness
from tests.contracts.test_redis_streams_bus import StreamsHarness

__all__ = ["rabbitmq_url"]

ONCE = RetryPolicy(attempts=1)


@pytest.fixture(
    params=["memory", "rabbitmq", "redis", "nats", "sqlite", "postgresql", "mariadb"],
)
def harness(request: pytest.FixtureRequest) -> Harness:
    if request.param == "rabbitmq":
        return RabbitMQHarness(request.getfixturevalue("rabbitmq_url"))
    harnesses: dict[str, type[Harness]] = {
        "memory": MemoryHarness,
        "redis": StreamsHarness,
        "nats": NatsHarness,
        "sqlite": SQLiteHarness,
        "postgresql": AsyncpgHarness,
        "mariadb": MariaDBHarness,
    }
    return harnesses[request.param]()


class Dead:
    """A consumer that fails, its bus, and an operator at a bus of his own without consumers."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.topic: Topic = scenario.topic()
        self.probe: Probe = scenario.probe(react=self._react)
        self.audit: list[AuditRecord] = []
        self.bad: Callable[[int], bool] = lambda _: True
        self.bus: TransportIntegrationEventBus
        self.operator: TransportIntegrationEventBus

    async def _react(self, event: Any) -> None:
        if self.bad(event.number):
            raise ValueError(f"no user {event.number}")

    async def start(self) -> None:
        registration = self.scenario.registration(
            self.probe, self.topic, Numbered, Other, retry=ONCE
        )
        self.bus = await self.scenario.started(registration)
        self.operator = await self.scenario.started()

    async def die(self, *events: Numbered | Other) -> list[DeadLetter]:
        await self.bus.send_many(self.topic, events)
        return await self.scenario.dead_letters(self.bus, self.probe, len(events))

    def letters(self, **options: Any) -> DeadLetters:
        return DeadLetters(
            self.operator,
            actor="anna",
            consumers=[self.probe.name],
            audit=self.audit.append,
            **options,
        )

    async def ids(self) -> set[int]:
        """Return the numbers of what is dead."""
        found = self.letters().search()
        return {
            int(e.message.body.split(b'"number":')[1].split(b",")[0].rstrip(b"}"))
            async for e in found
        }


@pytest.fixture
async def dead(harness: Harness) -> AsyncGenerator[Dead]:
    async with Scenario(harness) as scenario:
        made = Dead(scenario)
        await made.start()
        yield made
        teardown = asyncio.current_task()
        assert teardown is not None
        scenario._before.add(teardown)  # a fixture ends in a task of its own


async def steps(moved: Any) -> list[Progress]:
    async with aclosing(moved) as progress:
        return [step async for step in progress]


async def test_dead_letters_are_searched_by_each_condition(dead: Dead) -> None:
    all_ = await dead.die(Numbered(1), Numbered(22, text="Ärger"), Other(333))
    letters = dead.letters()

    async def found(**conditions: Any) -> list[str]:
        return [each.id async for each in letters.search(Selection(**conditions))]

    ids = [letter.id for letter in all_]
    later = datetime.now(UTC) + timedelta(hours=1)
    assert await found() == ids
    assert await found(type=Other.type) == ids[2:]
    assert await found(reason="retries-exhausted") == ids
    assert await found(reason="crashed") == []
    assert await found(text="NO USER 22") == ids[1:2]
    assert await found(text="ärger") == ids[1:2]
    assert await found(since=all_[0].died_at, before=later) == ids
    assert await found(since=later) == await found(before=all_[0].died_at) == []
    assert await found(ids=frozenset(ids[:1])) == ids[:1]
    assert await letters.show(ids[1]) == all_[1]
    with pytest.raises(NoSuchDeadLetterError):
        await letters.show("999999999")


async def test_one_cause_is_one_group(dead: Dead) -> None:
    all_ = await dead.die(*(Numbered(n) for n in range(5)), Other(7))
    first, second = await dead.letters().groups()

    assert (first.count, first.type, first.error) == (5, Numbered.type, "ValueError: no user #")
    assert first.place is not None
    assert re.fullmatch(r"\S*test_operations\.py:\d+ in _react", first.place)
    assert first.fingerprint == "ValueError at " + re.sub(r":\d+", "", first.place)
    assert {letter.id: letter.died_at for letter in all_}[first.sample] == first.last
    assert all(f"\nat {first.place}" in letter.error for letter in all_)
    assert (first.first, first.last) == (all_[0].died_at, max(a.died_at for a in all_[:5]))
    assert (second.count, second.type) == (1, Other.type)
    assert [e.id async for e in dead.letters().search(Selection(group=second.id))] == [all_[5].id]


async def test_groups_take_memory_that_the_number_of_dead_letters_does_not_change(
    dead: Dead,
) -> None:
    """They have 30 MB of bodies; what the bus in memory keeps is there before."""
    await dead.bus.send_many(dead.topic, [Numbered(n, text="x" * 20_000) for n in range(1_500)])

    async def all_died() -> bool:
        return (await dead.operator.backlog(dead.probe, topics=[dead.topic])).dead_letters == 1_500

    await dead.scenario.eventually(all_died, "all have died", lambda: len(dead.probe.arrivals))
    tracemalloc.start()
    try:
        (group,) = await dead.letters().groups()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (group.count, group.error) == (1_500, "ValueError: no user #")
    assert peak < 10 << 20


async def test_a_group_is_redriven_in_batches_after_its_canary(dead: Dead) -> None:
    await dead.die(*(Numbered(n) for n in range(7)), Other(7))
    group = (await dead.letters().groups())[0]
    dead.bad = lambda _: False
    moved = dead.letters().redrive(
        Selection(group=group.id), consumer=dead.probe.name, canary=30, batch=4
    )
    done = await steps(moved)

    assert [step.done for step in done] == [0, 1, 1, 5, 7]
    assert [step.canary for step in done[1:3]] == ["waiting", "handled"]
    assert done[-1].finished
    assert not done[-2].finished
    await dead.scenario.handled(7, dead.probe)
    assert await dead.ids() == {7}
    (record,) = dead.audit
    assert (record.actor, record.action, record.count, record.outcome) == (
        "anna",
        "redrive",
        7,
        "finished",
    )
    assert record.selection == f"group={group.id}"


async def test_a_canary_that_dies_again_keeps_the_others(dead: Dead) -> None:
    await dead.die(*(Numbered(n) for n in range(4)))
    with pytest.raises(CanaryFailedError, match="failed again .* ValueError: no user 0"):
        await steps(dead.letters().redrive(Selection(), consumer=dead.probe.name, canary=30))

    assert dead.probe.attempts == [1] * 5
    assert await dead.ids() == {0, 1, 2, 3}
    assert [(r.count, r.outcome) for r in dead.audit] == [(1, "failed")]


async def test_a_canary_of_unknown_outcome_keeps_the_others(dead: Dead) -> None:
    await dead.die(*(Numbered(n) for n in range(3)))
    held = asyncio.Event()

    async def hold(_: Any) -> None:
        await held.wait()

    dead.probe.react = hold
    with pytest.raises(CanaryFailedError, match="outcome of event .* is not known"):
        await steps(dead.letters().redrive(Selection(), consumer=dead.probe.name, canary=0.2))
    assert await dead.ids() == {1, 2}
    held.set()
    await dead.scenario.handled(1, dead.probe)


@pytest.mark.parametrize("harness", ["rabbitmq", "sqlite", "postgresql", "mariadb"], indirect=True)
async def test_the_outcome_is_known_of_a_consumer_that_is_never_idle(dead: Dead) -> None:
    """These tell of the canary itself, not of whether anything is left."""
    await dead.die(Numbered(1))
    held = asyncio.Event()

    async def react(event: Any) -> None:
        if event.number == 9:
            await held.wait()

    dead.probe.react = react
    await dead.bus.send(dead.topic, Numbered(9))
    await dead.bus.shutdown(grace=0)
    registration = dead.scenario.registration(
        dead.probe, dead.topic, Numbered, Other, retry=ONCE, concurrency=4
    )
    dead.bus.registrations[:] = [registration]
    await dead.bus.startup()
    done = await steps(dead.letters().redrive(Selection(), consumer=dead.probe.name, canary=30))
    assert done[-1].canary == "handled"
    assert 9 not in dead.probe.numbers
    held.set()
    await dead.scenario.handled(2, dead.probe)


async def test_what_dies_again_is_not_redriven_twice_in_one_run(dead: Dead) -> None:
    await dead.die(*(Numbered(n) for n in range(5)))
    moved = dead.letters().redrive(Selection(), consumer=dead.probe.name, canary=None, batch=1)
    done = await steps(moved)

    assert done[-1].done == done[-1].total == 5
    await dead.scenario.dead_letters(dead.bus, dead.probe, 5)
    assert dead.probe.attempts == [1] * 10


async def test_a_redrive_that_is_left_goes_on_when_it_is_called_again(dead: Dead) -> None:
    await dead.die(*(Numbered(n) for n in range(6)))
    dead.bad = lambda _: False
    async with aclosing(
        dead.letters().redrive(Selection(), consumer=dead.probe.name, canary=None, batch=2)
    ) as moved:
        async for step in moved:
            if step.done == 2:
                break
    assert await dead.ids() == {2, 3, 4, 5}
    assert [(r.count, r.outcome) for r in dead.audit] == [(2, "stopped")]
    await steps(dead.letters().redrive(Selection(), consumer=dead.probe.name, canary=None))
    await dead.scenario.handled(6, dead.probe)
    assert sorted(dead.probe.numbers) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("turns", [1, 3, 10, 30])
async def test_a_redrive_cancelled_within_a_batch_loses_none(
    dead: Dead, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await dead.die(*(Numbered(n) for n in range(20)))
    dead.bad = lambda _: False
    moving = asyncio.create_task(
        steps(dead.letters().redrive(Selection(), consumer=dead.probe.name, canary=None, batch=20))
    )
    began = asyncio.Event()
    original = dead.operator.redrive

    async def watched(*given: Any) -> int:
        began.set()
        return await original(*given)

    monkeypatch.setattr(dead.operator, "redrive", watched)
    await began.wait()
    for _ in range(turns):
        await asyncio.sleep(0)
    moving.cancel()
    await asyncio.gather(moving, return_exceptions=True)
    monkeypatch.undo()

    await steps(dead.letters().redrive(Selection(), consumer=dead.probe.name, canary=None))
    await dead.scenario.eventually(
        lambda: set(dead.probe.numbers) >= set(range(20)),
        "each is handled",
        lambda: dead.probe.numbers,
    )
    assert await dead.ids() == set()


async def test_an_outage_is_waited_out_and_each_is_counted(
    dead: Dead, monkeypatch: pytest.MonkeyPatch
) -> None:
    await dead.die(*(Numbered(n) for n in range(4)))
    dead.bad = lambda _: False
    original, calls = dead.operator.redrive, 0

    async def interrupted(consumer: Any, ids: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            await original(consumer, ids[:1])
            raise BusUnavailableError("the bus", "it restarts")
        return await original(consumer, ids)

    monkeypatch.setattr(dead.operator, "redrive", interrupted)
    done = await steps(dead.letters().redrive(Selection(), consumer=dead.probe.name, canary=None))
    assert (done[-1].done, done[-1].gone, calls) == (4, 0, 2)
    await dead.scenario.handled(4, dead.probe)

    async def down(consumer: Any, ids: Any) -> int:
        raise BusUnavailableError("the bus", "it is down")

    dead.bad = lambda _: True
    await dead.die(Numbered(9))
    monkeypatch.setattr(dead.operator, "redrive", down)
    with pytest.raises(BusUnavailableError):
        await steps(
            dead.letters(outage=0).redrive(Selection(), consumer=dead.probe.name, canary=None)
        )
    assert dead.audit[-1].outcome == "failed"
    assert await dead.ids() == {9}


async def test_discard_removes_what_is_chosen_and_counts_what_is_gone(dead: Dead) -> None:
    all_ = await dead.die(*(Numbered(n) for n in range(5)))
    async with aclosing(
        dead.letters().discard(Selection(), consumer=dead.probe.name, batch=2)
    ) as moved:
        done: list[Progress] = []
        async for step in moved:
            if not done:  # somebody else is faster
                await dead.operator.discard(dead.probe, [all_[4]])
            done.append(step)

    assert (done[-1].done, done[-1].gone, done[-1].finished) == (4, 1, True)
    assert await dead.ids() == set()
    assert dead.audit[-1].action == "discard"


async def test_an_exported_letter_is_read_as_it_was(dead: Dead) -> None:
    all_ = await dead.die(Numbered(1, text="\u2028 ключ"), Other(2))
    lines = [to_line(letter) async for letter in dead.letters().search()]

    assert list(read_lines(lines)) == all_


async def test_a_bus_without_its_consumers_handles_nothing(dead: Dead) -> None:
    registration = dead.bus.registrations[0]
    await dead.die(Numbered(1))
    await dead.bus.shutdown()
    dead.bad = lambda _: False
    other = dead.scenario.bus()
    await other.register(registration)
    async with without_consumers(other) as registrations:
        assert list(registrations) == [registration]
        letters = DeadLetters(other, actor="anna", consumers=[dead.probe.name])
        await steps(letters.redrive(Selection(), consumer=dead.probe.name, canary=None))
        await dead.scenario.holds(lambda: not dead.probe.handled, "it handles an event")
    assert other.registrations == [registration]
    await dead.bus.startup()
    await dead.scenario.handled(1, dead.probe)


async def test_a_paused_consumer_leaves_its_events_at_the_broker(dead: Dead) -> None:
    dead.bad = lambda _: False
    consumers = Consumers(dead.bus, actor="anna", audit=dead.audit.append)
    await dead.bus.send(dead.topic, Numbered(1))
    await dead.scenario.handled(1, dead.probe)
    with RecordingObserver() as paused:
        await consumers.pause(dead.probe.name)
        await consumers.pause(dead.probe.name)
    system = system_of(dead.bus.transport)
    seen = [each.details for each in paused.observations if each.name == "paused"]
    assert seen == [{"consumer": dead.probe.name, "system": system}]
    assert list(consumers.paused) == [dead.probe.name]
    await dead.operator.send(dead.topic, Numbered(2))
    await dead.scenario.holds(lambda: dead.probe.numbers == [1], "it handles an event")

    with RecordingObserver() as resumed:
        await consumers.resume(dead.probe.name)
        await consumers.resume(dead.probe.name)
        await dead.scenario.handled(2, dead.probe)
    assert len(resumed.named("resumed")) == 1
    assert dead.probe.numbers == [1, 2]
    assert not list(consumers.paused)
    assert [(r.action, r.target) for r in dead.audit] == [
        ("pause", f"consumer {dead.probe.name}"),
        ("resume", f"consumer {dead.probe.name}"),
    ]
    for verb in (consumers.pause, consumers.resume):
        with pytest.raises(InvalidTopologyError, match="no registration of this bus has this name"):
            await verb("nobody")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pausing, "LOOK_EVERY", 0.1)


async def test_a_consumer_is_paused_in_all_processes_and_over_restarts(
    dead: Dead, soon: Any
) -> None:
    """By an operator without consumers; what is sent to a topic that is new meanwhile waits too."""
    dead.bad = lambda _: False
    name = dead.probe.name
    await dead.bus.shutdown()
    await dead.bus.startup()  # to look often
    consumers = Consumers(dead.operator, actor="anna", audit=dead.audit.append)
    assert await consumers.pause_everywhere(name)
    assert not await consumers.pause_everywhere(name)
    assert await consumers.paused_everywhere([name, "nobody"]) == {name}
    await dead.scenario.eventually(
        lambda: dead.bus.health().paused == (name,), "it is paused", dead.bus.health
    )
    assert dead.bus.health().healthy
    await dead.operator.send(dead.topic, Numbered(1))
    await dead.scenario.holds(lambda: not dead.probe.handled, "it handles an event")

    await dead.bus.shutdown()
    another = dead.scenario.topic("another")
    registration = dead.scenario.registration(dead.probe, another, Numbered, retry=ONCE)
    await dead.bus.register(registration)
    await dead.bus.startup()
    assert dead.bus.health().paused == (name,)
    await dead.operator.send(another, Numbered(2))
    await dead.scenario.holds(lambda: not dead.probe.handled, "it handles an event")
    third = dead.scenario.topic("third")
    await dead.bus.register(dead.scenario.registration(dead.probe, third, Numbered, retry=ONCE))
    await dead.operator.send(third, Numbered(3))

    assert await consumers.resume_everywhere(name)
    assert not await consumers.resume_everywhere(name)
    assert await consumers.paused_everywhere([name]) == set()
    await dead.scenario.handled(3, dead.probe)
    assert sorted(dead.probe.numbers) == [1, 2, 3]
    assert dead.probe.attempts == [1, 1, 1]
    assert dead.bus.health().paused == ()
    assert [(r.action, r.selection) for r in dead.audit] == [
        ("pause", "in all processes"),
        ("resume", "in all processes"),
    ]


async def test_pausing_everywhere_lets_the_running_handler_end(dead: Dead, soon: Any) -> None:
    begun, end = asyncio.Event(), asyncio.Event()

    async def hold(_: Any) -> None:
        begun.set()
        await end.wait()

    dead.probe.react = hold
    await dead.bus.shutdown()
    await dead.bus.startup()
    await dead.bus.send(dead.topic, Numbered(1))
    await begun.wait()
    assert await dead.operator.pause(dead.probe)
    await dead.scenario.eventually(
        lambda: all(s.closing for s in dead.bus._consumers._subscribers.values()),
        "it begins to pause",
        dead.bus.health,
    )
    await dead.bus.send(dead.topic, Numbered(2))
    end.set()
    await dead.scenario.handled(1, dead.probe)
    await dead.scenario.holds(lambda: dead.probe.numbers == [1], "it handles another")
    await dead.operator.resume(dead.probe)
    await dead.scenario.handled(2, dead.probe)


async def test_a_paused_consumer_that_a_running_bus_registers_begins_nothing(dead: Dead) -> None:
    """The bus has looked at the marks before, of others."""
    dead.bad = lambda _: False
    await dead.operator.pause(dead.probe)
    another = await dead.scenario.started()
    topic = dead.scenario.topic("another")
    await another.register(dead.scenario.registration(dead.probe, topic, Numbered, retry=ONCE))
    assert another.health().paused == (dead.probe.name,)
    await dead.operator.send(topic, Numbered(1))
    await another.resume(dead.probe)
    await dead.scenario.handled(1, dead.probe)


async def test_a_pause_that_is_refused_leaves_the_consumer_as_it_was() -> None:
    """In a handler, which the pause would wait for."""
    refused: list[str] = []

    async def pause(_: Any) -> None:
        with pytest.raises(UnsupportedByBusError):
            await consumers.pause("mails")
        refused.extend(consumers.paused)

    probe = Probe("mails", react=pause)
    topic = Topic("users")
    registration = IntegrationEventBusRegistration(probe, topic, [Numbered])
    async with InMemoryIntegrationEventBus([registration]) as bus:
        consumers = Consumers(bus, actor="anna")
        await bus.send(topic, Numbered(1))
        await bus.broker.quiet()
        assert refused == list(consumers.paused) == []
        await consumers.resume("mails")
        await bus.send(topic, Numbered(2))
        await bus.broker.quiet()
    assert probe.numbers == [1, 2]


async def test_a_mark_that_cannot_be_read_changes_nothing(
    dead: Dead, soon: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Paused stays paused, and running stays running."""
    dead.bad = lambda _: False
    looked = asyncio.Event()

    async def fails(_: Any) -> Any:
        looked.set()
        raise BusUnavailableError("the broker", "it is away")

    await dead.bus.shutdown()
    await dead.bus.startup()
    await dead.operator.pause(dead.probe)
    await dead.scenario.eventually(
        lambda: dead.bus.health().paused, "it is paused", dead.bus.health
    )
    monkeypatch.setattr(dead.bus.transport, "paused", fails)
    await looked.wait()  # so no look from before is on its way
    await dead.operator.resume(dead.probe)
    looked.clear()
    await looked.wait()
    await dead.bus.send(dead.topic, Numbered(1))
    await dead.scenario.holds(lambda: not dead.probe.handled, "it handles an event")
    assert caplog.text.count("cannot read which consumers are paused") == 1
    monkeypatch.undo()
    await dead.scenario.handled(1, dead.probe)


async def test_a_broadcast_is_not_paused_everywhere() -> None:
    async with InMemoryBroadcastIntegrationEventBus() as bus:
        consumers = Consumers(bus, actor="anna")
        for verb in (consumers.pause_everywhere, consumers.resume_everywhere):
            with pytest.raises(UnsupportedByBusError, match="in all processes"):
                await verb("any")


async def test_a_broadcast_is_not_paused() -> None:
    consumers = Consumers(InMemoryBroadcastIntegrationEventBus(), actor="anna")
    with pytest.raises(UnsupportedByBusError, match="a broadcast keeps nothing"):
        await consumers.pause("any")


async def test_check_finds_nothing_wrong_and_makes_nothing(dead: Dead) -> None:
    """Of a topic that is new, and of one that is running."""
    new = dead.scenario.topic("new")
    registration = dead.scenario.registration(dead.probe, new, Numbered, retry=ONCE)
    await dead.bus.shutdown()
    bus = dead.scenario.bus()
    for each in (registration, dead.bus.registrations[0]):
        await bus.register(each)
    findings = [*await check([bus]), *await check([bus])]
    assert [f.what for f in findings if f.problem is not None] == []
    at_broker = [f for f in findings if "has at the broker" in f.what]
    memory = isinstance(dead.scenario.harness, MemoryHarness)
    assert len(at_broker) == (0 if memory else 4)
    # Redis and NATS keep what is sent before a consumer is there: they tell of what was made.
    if isinstance(dead.scenario.harness, RabbitMQHarness | SQLiteHarness):
        await dead.operator.send(new, Numbered(1))
        assert (await dead.operator.backlog(dead.probe, topics=[new])).waiting == 0


@pytest.mark.parametrize("harness", ["rabbitmq", "redis", "nats"], indirect=True)
async def test_check_tells_of_what_is_otherwise_at_the_broker(dead: Dead) -> None:
    transport: Any = dead.operator.transport
    topic, name = dead.scenario.topic("wrong"), dead.probe.name
    if isinstance(dead.scenario.harness, RabbitMQHarness):
        channel = await transport._outward.connection.channel(10)
        await channel.call("queue_declare", queue=f"{name}@{topic.name}", durable=True)
        await channel.close()
        said = f"queue '{name}@{topic.name}'.*with other arguments than"
    elif isinstance(dead.scenario.harness, StreamsHarness):
        await transport._link.call("SET", topic.name, "text")
        said = f"Redis key '{topic.name}': it holds a string, not a stream"
    else:
        config = {"name": topic.name, "subjects": [f"{topic.name}.>"], "retention": "workqueue"}
        await transport._api.request(f"STREAM.CREATE.{topic.name}", config, dict)
        said = f"NATS stream '{topic.name}': it exists and cannot be used: its retention"
    bus = dead.scenario.bus()
    await bus.register(dead.scenario.registration(dead.probe, topic, Numbered, retry=ONCE))
    (wrong,) = [finding for finding in await check([bus]) if finding.problem is not None]
    assert wrong.what == f"what {bus.registrations[0]} has at the broker"
    assert not wrong.unavailable
    assert re.search(said, wrong.problem or "")
    with pytest.raises(InvalidTopologyError):  # as it says
        await bus.startup()
    if isinstance(dead.scenario.harness, StreamsHarness):
        await transport._link.call("DEL", topic.name)


async def test_what_waits_is_counted_from_another_process(dead: Dead) -> None:
    registration = dead.bus.registrations[0]
    await dead.die(Numbered(1), Numbered(2))
    await dead.bus.shutdown()
    await dead.operator.send(dead.topic, Numbered(3))

    async def waits() -> bool:
        (found,) = await backlogs(dead.operator, [registration])
        left = found.backlog
        return (found.consumer, left.waiting, left.dead_letters) == (dead.probe.name, 1, 2)

    await dead.scenario.eventually(waits, "1 waits, 2 are dead", lambda: None)
    assert await backlogs(dead.operator) == []


COUNTS = {"memory", "redis", "nats"}


async def test_what_all_processes_settle_is_counted_where_the_broker_does(
    dead: Dead, request: pytest.FixtureRequest
) -> None:
    """Those of retries, too, many at a time and settled in any order."""
    counts = request.node.callspec.params["harness"] in COUNTS
    await dead.bus.shutdown()
    retry = RetryPolicy(attempts=3, delay=0.02, in_place=0)
    registration = dead.scenario.registration(
        dead.probe, dead.topic, Numbered, concurrency=8, retry=retry
    )
    await dead.scenario.started(registration)
    await dead.scenario.started(registration)
    (idle,) = await backlogs(dead.operator, [registration])
    assert idle.pace is None
    await dead.operator.send_many(dead.topic, [Numbered(number) for number in range(20)])
    await dead.scenario.dead_letters(dead.operator, dead.probe, 20)

    async def all_ended() -> bool:
        (found,) = await backlogs(dead.operator, [registration])
        if not counts:
            assert found.backlog.settled is None
            return True
        assert found.backlog.settled is not None
        assert idle.backlog.settled is not None
        return found.backlog.settled - idle.backlog.settled == 60

    await eventually(all_ended)
    (quiet,) = await backlogs(dead.operator, [registration], over=0.05)
    assert quiet.pace == Pace(0.0 if counts else None, 0.0)


def test_a_pace_is_what_changed_a_second() -> None:
    before = Backlog(waiting=10, dead_letters=0, in_flight=2, delayed=3, settled=100)
    after = Backlog(waiting=1, dead_letters=4, in_flight=2, delayed=0, settled=130)
    assert pace(5.0, before, 7.0, after) == Pace(rate=15.0, growth=-6.0)
    assert pace(5.0, after, 7.0, before) == Pace(rate=None, growth=6.0)  # counted from the start
    assert pace(5.0, before, 7.0, Backlog(10, 0)) == Pace(rate=None, growth=-2.5)
