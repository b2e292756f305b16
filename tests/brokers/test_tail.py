"""A topic followed live: all of it is seen, consumers get theirs once, and nothing is left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pika  # type: ignore[import-untyped]
import pytest
import redis
from nats.aio.client import Client as NatsClient
from pika.exceptions import ChannelClosedByBroker  # type: ignore[import-untyped]

from events.errors import BusUnavailableError, InvalidTopologyError, UnsupportedByBusError
from events.integration import PII, IntegrationEvent
from events.integration.brokering.backoff import Backoff
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.implementation.memory import InMemoryBroadcastTransport
from events.integration.implementation.nats._names import token
from events.operations import tail as tail_module
from events.operations.tail import Tail, TailedEvent
from events.testing.contracts import Harness
from events.testing.contracts.probe import Numbered, Other
from events.testing.contracts.scenario import Scenario
from tests.brokers.nats_server import plain_url
from tests.brokers.rabbitmq_server import RabbitMQHarness, rabbitmq_url
from tests.contracts.nats_harness import NatsHarness
from tests.contracts.sqlalchemy_bus import SQLiteHarness
from tests.contracts.test_memory_bus import MemoryHarness
from tests.contracts.test_redis_pubsub_bus import PubSubHarness
from tests.contracts.test_redis_streams_bus import StreamsHarness

__all__ = ["rabbitmq_url"]


@dataclass(frozen=True)
class Greeted(IntegrationEvent):
    type = "tail.greeted"
    version = 1
    email: Annotated[str, PII]
    number: int = 0


def make(kind: str, request: pytest.FixtureRequest) -> Harness:
    if kind == "rabbitmq":
        return RabbitMQHarness(request.getfixturevalue("rabbitmq_url"))
    harnesses: dict[str, type[Harness]] = {
        "redis": StreamsHarness,
        "nats": NatsHarness,
        "pubsub": PubSubHarness,
        "memory": MemoryHarness,
        "sqlite": SQLiteHarness,
    }
    return harnesses[kind]()


@pytest.fixture(params=["rabbitmq", "redis", "nats", "pubsub"])
def harness(request: pytest.FixtureRequest) -> Harness:
    return make(request.param, request)


@pytest.fixture(params=["memory", "sqlite"])
def quiet(request: pytest.FixtureRequest) -> Harness:
    return make(request.param, request)


async def next_of(tail: Tail, count: int) -> list[TailedEvent]:
    return [await asyncio.wait_for(anext(tail), 120) for _ in range(count)]


def numbers(events: list[TailedEvent]) -> list[int]:
    return [json.loads(event.body)["number"] for event in events]


async def test_a_tail_sees_each_event_and_takes_none(harness: Harness) -> None:
    async with Scenario(harness) as scenario:
        topic, probe = scenario.topic(), scenario.probe()
        registration = scenario.registration(probe, topic, Numbered, Other)
        bus = await scenario.started(registration)
        looker = await scenario.started()
        await bus.send(topic, Numbered(0))
        await scenario.eventually(lambda: probe.numbers == [0], "the first", lambda: probe.numbers)
        async with Tail(looker, topic.name, registrations=[registration]) as tail:
            await bus.send_many(topic, [Numbered(n) for n in range(1, 301)])
            assert numbers(await next_of(tail, 300)) == list(range(1, 301))
        await bus.send(topic, Numbered(301))
        await scenario.eventually(
            lambda: len(probe.numbers) >= 302, "all of them", lambda: probe.numbers
        )
        assert probe.numbers == list(range(302))


async def test_a_tail_of_a_consumer_or_of_types_shows_these(harness: Harness) -> None:
    async with Scenario(harness) as scenario:
        topic, probe = scenario.topic(), scenario.probe()
        registration = scenario.registration(probe, topic, Numbered)
        others = scenario.registration(scenario.probe("others"), topic, Other)
        bus = await scenario.started(registration, others)
        known = [registration, others]
        async with (
            Tail(bus, probe.name, registrations=known) as theirs,
            Tail(bus, topic.name, registrations=known, types=[Other.type]) as typed,
        ):
            assert theirs.topics == typed.topics == (topic.name,)
            await bus.send_many(topic, [Numbered(1), Other(2), Numbered(3)])
            assert numbers(await next_of(theirs, 2)) == [1, 3]
            assert numbers(await next_of(typed, 1)) == [2]


async def test_personal_values_are_masked_unless_asked_for(harness: Harness) -> None:
    async with Scenario(harness) as scenario:
        topic = scenario.topic()
        registration = scenario.registration(scenario.probe(), topic, Greeted)
        bus = await scenario.started(registration)
        async with (
            Tail(bus, topic.name) as masked,
            Tail(bus, topic.name, personal=True) as whole,
            Tail(bus, topic.name, registrations=(), types=[Greeted.type]) as unsure,
        ):
            await bus.send(topic, Greeted("ada@example.org", 7), key="ada@example.org")
            (hidden,) = await next_of(masked, 1)
            (seen,) = await next_of(whole, 1)
            (unknown,) = await next_of(unsure, 1)
        assert json.loads(hidden.body) == {**json.loads(seen.body), "email": "***"}
        assert json.loads(seen.body)["email"] == "ada@example.org"
        assert unknown.hidden
        assert "ada@" not in repr((hidden, unknown))
        assert (hidden.type, hidden.topic) == (Greeted.type, topic.name)


async def test_a_tail_goes_on_after_its_connection_was_lost(harness: Harness) -> None:
    async with Scenario(harness) as scenario:
        topic = scenario.topic()
        registration = scenario.registration(scenario.probe(), topic)
        bus = await scenario.started(registration)
        looker = await scenario.started(scenario.registration(scenario.probe("other"), topic))
        async with Tail(looker, topic.name) as tail:
            await harness.lose_connection(looker)
            sent, seen = 0, asyncio.create_task(anext(tail))
            while not seen.done():  # those that are sent before it listens again are not shown
                await bus.send(topic, Numbered(sent := sent + 1))
                await asyncio.wait([seen], timeout=0.05)
            assert 1 <= numbers([seen.result()])[0] <= sent


class Flapping:
    """A bus whose broker is there each time, and gone again at once."""

    features = InMemoryBroadcastTransport.features
    registrations = ()

    def __init__(self) -> None:
        self.transport = self

    async def tail(self, *given: Any) -> None:
        given[-1]()
        raise BusUnavailableError("the broker", "it is gone")


async def test_a_tail_comes_back_as_soon_after_many_outages_as_after_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It misses what is sent meanwhile."""
    pauses: list[float] = []
    enough = asyncio.Event()

    class Noted(Backoff):
        async def pause(self) -> None:
            pauses.append(self.take())
            if len(pauses) == 10:
                enough.set()
            await asyncio.sleep(0)

    monkeypatch.setattr(tail_module, "Backoff", Noted)
    bus: Any = Flapping()
    async with Tail(bus, "users"):
        await enough.wait()
    assert max(pauses) <= 0.2


async def test_a_tail_whose_beginning_is_cancelled_leaves_no_task() -> None:
    class Waiting(Flapping):
        async def tail(self, *given: Any) -> None:
            waiting.set()
            await asyncio.Event().wait()

    waiting = asyncio.Event()
    before = asyncio.all_tasks()
    bus: Any = Waiting()
    entering = asyncio.create_task(Tail(bus, "users").__aenter__())
    await waiting.wait()
    entering.cancel()
    await asyncio.wait([entering])
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_where_only_consumers_get_events_that_is_said(quiet: Harness) -> None:
    async with Scenario(quiet) as scenario:
        bus = await scenario.started()
        with pytest.raises(UnsupportedByBusError, match="register another consumer"):
            await Tail(bus, "users").__aenter__()


@pytest.mark.parametrize("kind", ["rabbitmq", "nats"])
async def test_a_topic_that_is_not_there_is_named(
    kind: str, request: pytest.FixtureRequest
) -> None:
    async with Scenario(make(kind, request)) as scenario:
        bus, topic = await scenario.started(), scenario.topic()
        with pytest.raises(InvalidTopologyError, match="nothing was ever sent to it"):
            await Tail(bus, topic.name, types=["x"]).__aenter__()


# --- nothing is left, even if the command is killed ---------------------------------------------

APP = """
import os
from events.integration import EventHandlerConsumer, IntegrationEventBusRegistration, Topic
from events.testing.contracts.probe import Numbered

async def fine(event: Numbered) -> None: ...

URL, KIND = os.environ["TAIL_URL"], os.environ["TAIL_KIND"]

def app():
    consumer = EventHandlerConsumer("tail-consumer", {Numbered: fine})
    registration = IntegrationEventBusRegistration(consumer, Topic(os.environ["TAIL_TOPIC"]))
    if KIND == "rabbitmq":
        from events.rabbitmq import RabbitMQBus as Bus
    elif KIND == "redis":
        from events.redis import RedisStreamsBus as Bus
    else:
        from events.nats import NATSBus as Bus
    return Bus(URL, [registration], connect_timeout=60, startup_timeout=240)
"""


async def left_at_rabbitmq(url: str, topic: str) -> bool:
    """Tell whether a queue is bound to the exchange; it is gone afterwards if none is."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        connection.channel().exchange_delete(topic, if_unused=True)
    except ChannelClosedByBroker:
        return True
    finally:
        connection.close()
    return False


async def left_at_redis(url: str, topic: str) -> bool:
    client: Any = redis.Redis.from_url(url)
    try:
        assert list(client.scan_iter(f"*{topic}*")) == [topic.encode()]
        return bool(client.execute_command("XINFO", "GROUPS", topic))
    finally:
        client.close()


async def left_at_nats(url: str, topic: str) -> bool:
    client = NatsClient()
    await client.connect(url)
    try:
        return bool(await client.jetstream().consumers_info(token("Topic", topic)))
    finally:
        await client.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("kind", ["rabbitmq", "redis", "nats"])
async def test_the_command_leaves_nothing_at_the_broker(
    kind: str, how: signal.Signals, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    harness: Any = make(kind, request)
    (tmp_path / "tail_app.py").write_text(APP)
    url: str = {"nats": plain_url}.get(kind, lambda: harness.url)()
    left = {"rabbitmq": left_at_rabbitmq, "redis": left_at_redis, "nats": left_at_nats}[kind]
    async with Scenario(harness) as scenario:
        bus: TransportIntegrationEventBus = await scenario.started()
        topic = scenario.topic()
        await bus.send(topic, Numbered(0))
        environment = {**os.environ, "TAIL_URL": url, "TAIL_KIND": kind, "TAIL_TOPIC": topic.name}
        command = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "events", "tail", topic.name),
            *("--app", "tail_app:app", "--json"),
            cwd=tmp_path,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert command.stdout is not None
        assert command.stderr is not None
        try:
            said = await asyncio.wait_for(command.stderr.readline(), 120)
            assert said.startswith(b"following"), said + await command.stderr.read()
            await bus.send(topic, Numbered(1))
            line = await asyncio.wait_for(command.stdout.readline(), 120)
            assert json.loads(json.loads(line)["body"])["number"] == 1
        finally:
            command.send_signal(how)
            status = await command.wait()
        assert status == (-signal.SIGKILL if how is signal.SIGKILL else 0)
        assert await command.stderr.read() == b""
        async with asyncio.timeout(120):
            while await left(url, topic.name):
                await asyncio.sleep(0.2)
