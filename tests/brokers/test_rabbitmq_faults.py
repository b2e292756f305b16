"""Conformance 22 to 29 on RabbitMQ: servers and processes are really killed, frozen, cut off."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pika.exceptions import ChannelClosedByBroker  # type: ignore[import-untyped]

from events.errors import BusError, BusUnavailableError, SendOutcomeUnknownError
from events.integration import IntegrationEventBusRegistration, RetryPolicy, Topic
from events.integration.implementation.rabbitmq import RabbitMQIntegrationEventBus, _topology
from events.integration.implementation.rabbitmq._channel import Channel
from events.integration.implementation.rabbitmq._topology import Place, declare
from events.testing.contracts import Numbered, Probe
from events.testing.waiting import eventually
from tests.brokers.rabbitmq_server import (
    Client,
    RabbitMQServer,
    connections,
    private_server,
    rabbitmq_server,
)
from tests.servers import end, free_port

__all__ = ["rabbitmq_server"]


ROOT = Path(__file__).parents[2]


class Worker:
    """A consumer process."""

    def __init__(self, server: RabbitMQServer, topic: str, folder: Path, **options: Any) -> None:
        self.topic = topic
        self._options = options
        self._command = [
            sys.executable, "-m", "tests.brokers.rabbitmq_worker",
            server.url, topic, f"{topic}-worker", str(folder / "journal"),
        ]  # fmt: skip
        self._journal = folder / "journal"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def consumer(self) -> str:
        return f"{self.topic}-worker"

    @property
    def queue(self) -> str:
        return f"{self.consumer}@{self.topic}"

    def start(self, **others: Any) -> None:
        """Start it, with other options this time if they are given."""
        command = [*self._command, json.dumps(self._options | others)]
        environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    @property
    def exit_code(self) -> int | None:
        assert self._process is not None
        return self._process.poll()

    async def wait(self) -> int:
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait, 60)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def noted(self, word: str) -> list[int]:
        if not self._journal.exists():
            return []
        lines = (line.split() for line in self._journal.read_text().splitlines())
        return [int(number) for noted, number in lines if noted == word]


@pytest.fixture
async def bus(rabbitmq_server: RabbitMQServer) -> AsyncGenerator[RabbitMQIntegrationEventBus]:
    async with RabbitMQIntegrationEventBus(rabbitmq_server.url) as bus:
        yield bus


@pytest.fixture
async def new_worker(
    rabbitmq_server: RabbitMQServer, tmp_path: Path
) -> AsyncGenerator[Callable[..., Any]]:
    workers: list[Worker] = []

    async def make(**options: Any) -> Worker:
        """Make one, with its queue, so that what is sent now waits for it."""
        worker = Worker(rabbitmq_server, f"faults-{uuid4().hex[:8]}", tmp_path, **options)
        workers.append(worker)
        registration = IntegrationEventBusRegistration(
            Probe(worker.consumer), Topic(worker.topic), [Numbered]
        )
        queue_type = options.get("queue_type", "quorum")
        async with RabbitMQIntegrationEventBus(
            rabbitmq_server.url, [registration], queue_type=queue_type
        ):
            return worker

    yield make
    for worker in workers:
        if worker._process is not None:
            end(worker._process)


async def settle_down(server: RabbitMQServer) -> None:
    """Wait until the queues that were just made would survive SIGKILL."""
    await eventually(server.knows_its_quorum_queues)


def left(server: RabbitMQServer, queue: str) -> int:
    """Count what is in the queue, with the queues beside it."""
    with Client(server.url) as client:
        return client.count(queue) + client.count(f"{queue}:quarantine")


async def is_drained(server: RabbitMQServer, queue: str) -> bool:
    """Tell whether nothing waits in the queue, and nothing at all is unacknowledged."""
    if left(server, queue):
        return False
    channels = await asyncio.to_thread(server.ctl, "list_channels", "messages_unacknowledged")
    return not any(int(line) for line in channels.split() if line.isdecimal())


async def test_22_the_consumer_process_is_killed(
    rabbitmq_server: RabbitMQServer,
    bus: RabbitMQIntegrationEventBus,
    new_worker: Callable[..., Any],
) -> None:
    count, concurrency = 2_000, 5
    # So slow that it is not done before it is killed, however busy the machine is.
    worker = await new_worker(concurrency=concurrency, prefetch=concurrency, seconds=0.1)
    await bus.send_many(Topic(worker.topic), map(Numbered, range(count)))
    worker.start()
    await eventually(lambda: len(worker.noted("ended")) > 50)
    worker.kill()
    ended = worker.noted("ended")
    assert len(ended) < count
    worker.start(seconds=0.01)
    await eventually(lambda: set(worker.noted("ended")) == set(range(count)))
    twice = {n for n, times in Counter(worker.noted("began")).items() if times > 1}
    # In flight were those that had not ended; and the acknowledgements of those that just had, which
    # are lost on their way with a process whose socket has unread data (RFC 1122, 4.2.2.13).
    assert len(twice - set(ended)) <= concurrency
    assert twice & set(ended) <= set(ended[-concurrency:])
    await eventually(lambda: left(rabbitmq_server, worker.queue) == 0)


async def test_23_the_broker_is_restarted_in_mid_stream() -> None:
    count, at_once = 10_000, 200
    topic, probe = Topic("stream"), Probe("counter")
    registration = IntegrationEventBusRegistration(probe, topic, [Numbered], concurrency=50)
    with private_server() as server:
        async with RabbitMQIntegrationEventBus(server.url, [registration], send_timeout=60) as bus:
            await settle_down(server)
            accepted: set[int] = set()
            refused: list[BusError] = []
            numbers = iter(range(count))

            async def send() -> None:
                for number in numbers:
                    try:
                        await bus.send(topic, Numbered(number))
                    except BusError as error:
                        refused.append(error)
                    else:
                        accepted.add(number)

            sending = [asyncio.create_task(send()) for _ in range(at_once)]
            await eventually(lambda: len(accepted) > count // 4)
            await asyncio.to_thread(server.restart)
            await asyncio.gather(*sending)
            await eventually(
                lambda: accepted <= set(probe.numbers),
                saw=lambda: len(accepted - set(probe.numbers)),
            )
            assert bus.health().healthy
            assert len(accepted) + len(refused) == count
            assert not refused, f"{len(refused)} were not accepted: {refused[0]}"
            # What was not confirmed was sent again: as many as were in flight, at most.
            assert len(probe.numbers) - count <= 2 * at_once + 100
            # Here, as a shutdown does not wait for a broker that is silent for 2 s.
            await eventually(lambda: is_drained(server, "counter@stream"))
        assert left(server, "counter@stream") == 0


async def test_what_was_accepted_survives_a_restart_before_anybody_consumes() -> None:
    topic, probe = Topic("kept"), Probe("later")
    registration = IntegrationEventBusRegistration(probe, topic, [Numbered])
    with private_server() as server:
        async with RabbitMQIntegrationEventBus(server.url, [registration]) as bus:
            await bus.unregister(registration)
            await bus.send_many(topic, map(Numbered, range(500)))
            await settle_down(server)
        await asyncio.to_thread(server.restart)
        async with RabbitMQIntegrationEventBus(server.url, [registration]):
            await eventually(lambda: len(probe.numbers) == 500)
    assert probe.numbers == list(range(500))


async def test_24_the_broker_is_frozen(rabbitmq_server: RabbitMQServer) -> None:
    topic = Topic("frozen")
    async with RabbitMQIntegrationEventBus(rabbitmq_server.url, send_timeout=15) as bus:
        await bus.send(topic, Numbered(0))
        rabbitmq_server.freeze()
        try:
            async with asyncio.timeout(120):
                with pytest.raises(SendOutcomeUnknownError):
                    await bus.send(topic, Numbered(1))
                with pytest.raises(BusError):
                    await bus.send(Topic("frozen-and-new"), Numbered(1))
        finally:
            rabbitmq_server.thaw()

        async def sent() -> bool:
            try:
                await bus.send(topic, Numbered(2))
            except BusError:
                return False
            return True

        await eventually(sent)


async def test_24_shutdown_beside_a_frozen_broker_ends_soon_and_loses_nothing(
    rabbitmq_server: RabbitMQServer,
) -> None:
    gate = asyncio.Event()

    async def fail_after(_: Numbered) -> None:
        await gate.wait()
        raise RuntimeError("while the broker is frozen")

    topic, probe = Topic("frozen-at-the-end"), Probe("frozen-consumer", fail_after)
    registration = IntegrationEventBusRegistration(
        probe, topic, [Numbered], concurrency=3, retry=RetryPolicy(delay=0.05, jitter=0, in_place=0)
    )
    bus = RabbitMQIntegrationEventBus(rabbitmq_server.url, [registration], send_timeout=240)
    await bus.startup()
    await bus.send_many(topic, map(Numbered, range(10)))
    await eventually(lambda: len(probe.running) == 3)
    rabbitmq_server.freeze()
    try:
        sending = asyncio.create_task(bus.send(topic, Numbered(10)))
        gate.set()  # three retries are on their way to a broker that does not answer
        await eventually(lambda: not probe.running)
        async with asyncio.timeout(120):  # half of what it would have for an answer
            await bus.shutdown(grace=0)
        with pytest.raises(SendOutcomeUnknownError):
            await sending
    finally:
        rabbitmq_server.thaw()
    probe.react = None
    async with bus:
        await eventually(lambda: set(probe.numbers) >= set(range(10)))
        await eventually(lambda: left(rabbitmq_server, "frozen-consumer@frozen-at-the-end") == 0)


async def test_25_the_broker_is_down_at_startup() -> None:
    url = f"amqp://guest:secret@127.0.0.1:{free_port()}/"
    async with asyncio.timeout(120):
        with pytest.raises(BusUnavailableError) as raised:
            await RabbitMQIntegrationEventBus(url, connect_timeout=1.0).startup()
    assert "secret" not in str(raised.value)
    assert "guest:***@127.0.0.1" in str(raised.value)


async def test_25_startup_waits_if_it_is_configured_to(tmp_path: Path) -> None:
    server = RabbitMQServer(tmp_path)
    bus = RabbitMQIntegrationEventBus(server.url, wait_for_broker=True, startup_timeout=240)
    starting = asyncio.create_task(bus.startup())
    await asyncio.to_thread(server.__enter__)
    try:
        await starting
        await bus.send(Topic("early"), Numbered(1))
        await bus.shutdown()
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


async def test_25_waiting_for_the_broker_has_an_end_and_says_what_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = f"amqp://guest:secret@127.0.0.1:{free_port()}/"
    bus = RabbitMQIntegrationEventBus(
        url, wait_for_broker=True, connect_timeout=5, startup_timeout=12
    )
    with pytest.raises(
        BusUnavailableError, match=r"startup took longer than 12 s.*Connection refused"
    ):
        await bus.startup()
    (logged,) = [r for r in caplog.records if r.name == "events.integration"]
    assert logged.levelname == "WARNING"
    assert "waits for its broker: " in logged.message
    assert "Connection refused" in logged.message
    assert "secret" not in caplog.text


@pytest.mark.parametrize("waits", [True, False], ids=["waits", "does-not-wait"])
async def test_25_the_connection_is_lost_while_startup_declares(
    waits: bool,
    rabbitmq_server: RabbitMQServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probe, topic = Probe("unlucky"), Topic("unlucky")
    bus = RabbitMQIntegrationEventBus(
        rabbitmq_server.url,
        [IntegrationEventBusRegistration(probe, topic, [Numbered])],
        wait_for_broker=waits,
    )
    cut: list[Channel] = []

    async def declare_once_lost(channel: Channel, place: Place) -> None:
        if not cut:
            cut.append(channel)
            channel._channel.connection._transport._sock.shutdown(socket.SHUT_RDWR)
        await declare(channel, place)

    monkeypatch.setattr(_topology, "declare", declare_once_lost)
    if not waits:
        with pytest.raises(BusUnavailableError, match=r"RabbitMQ at .* lost|RabbitMQ at .*unlucky"):
            await bus.startup()
        await bus.shutdown()
        return
    async with bus:
        await bus.send(topic, Numbered(1))
        await eventually(lambda: probe.numbers == [1])
    assert cut


async def test_23_the_next_host_takes_over_with_all_that_is_needed_made_again(
    rabbitmq_server: RabbitMQServer,
) -> None:
    """Two brokers that know nothing of each other: what waited in the first is not moved."""
    topic, probe = Topic("two-hosts"), Probe("two-hosts")
    registration = IntegrationEventBusRegistration(probe, topic, [Numbered])
    with private_server() as first:
        urls = [first.url, rabbitmq_server.url]
        async with RabbitMQIntegrationEventBus(
            urls,
            [registration],
            send_timeout=60,
            connect_timeout=60,  # half of it for each; a link that gives one up has the other
            startup_timeout=240,
        ) as bus:
            await bus.send(topic, Numbered(1))
            await eventually(lambda: probe.numbers == [1])
            first.kill()
            # Once it consumes elsewhere: a queue has what was sent since it was declared.
            await eventually(lambda: _is_consumed(rabbitmq_server, "two-hosts@two-hosts"))
            await bus.send_many(topic, map(Numbered, range(2, 50)))
            await eventually(lambda: probe.numbers == list(range(1, 50)))


def _is_consumed(server: RabbitMQServer, queue: str) -> bool:
    with Client(server.url) as client:
        try:
            return bool(client.channel.queue_declare(queue, passive=True).method.consumer_count)
        except ChannelClosedByBroker:
            return False


async def test_26_sigterm_with_a_backlog(
    rabbitmq_server: RabbitMQServer,
    bus: RabbitMQIntegrationEventBus,
    new_worker: Callable[..., Any],
) -> None:
    count, concurrency = 60, 3
    worker = await new_worker(concurrency=concurrency, seconds=0.5)
    await bus.send_many(Topic(worker.topic), map(Numbered, range(count)))
    worker.start()
    await eventually(lambda: len(worker.noted("began")) > concurrency)
    worker.signal(signal.SIGTERM)
    assert await worker.wait() == 0
    assert sorted(worker.noted("began")) == sorted(worker.noted("ended")), "one was cut off"
    assert len(worker.noted("ended")) < count
    remaining = count - len(worker.noted("ended"))
    await eventually(lambda: left(rabbitmq_server, worker.queue) == remaining)
    worker.start()
    await eventually(lambda: len(worker.noted("ended")) == count)
    assert sorted(worker.noted("ended")) == list(range(count)), "one was handled twice"


@pytest.mark.parametrize(
    ("queue_type", "concurrency"), [("quorum", 1), ("quorum", 5), ("classic", 5)]
)
async def test_27_a_message_that_kills_its_process(
    rabbitmq_server: RabbitMQServer,
    bus: RabbitMQIntegrationEventBus,
    new_worker: Callable[..., Any],
    queue_type: str,
    concurrency: int,
) -> None:
    count, deadly, attempts = 20, 3, 2
    worker = await new_worker(
        queue_type=queue_type,
        concurrency=concurrency,
        prefetch=12,
        deadly=deadly,
        attempts=attempts,
        seconds=0.05,
    )
    await bus.send_many(Topic(worker.topic), map(Numbered, range(count)))
    deaths = 0
    worker.start()
    while not await bus.dead_letters(worker.consumer):
        await asyncio.sleep(0.05)
        if worker.exit_code is not None:
            deaths += 1
            assert deaths < 10, "it is not given up"
            worker.start()
    (letter,) = await bus.dead_letters(worker.consumer)
    assert (letter.reason, letter.attempts) == ("crashed", deaths)
    assert b'"number":3' in letter.message.body
    assert deaths == 2 + attempts
    others = set(range(count)) - {deadly}
    await eventually(lambda: set(worker.noted("ended")) == others)
    assert worker.exit_code is None
    await eventually(lambda: left(rabbitmq_server, worker.queue) == 0)
    assert len(await bus.dead_letters(worker.consumer)) == 1, "a neighbour was given up"
    # A death takes with it what runs beside the deadly one, and what has ended in the same turn.
    twice = Counter(worker.noted("ended")) - Counter(others)
    assert sum(twice.values()) <= deaths * (concurrency - 1), twice


async def test_28_the_connection_is_lost_while_a_handler_runs(
    rabbitmq_server: RabbitMQServer,
) -> None:
    gate = asyncio.Event()
    topic, probe = Topic("cut"), Probe("cut-consumer", lambda _: gate.wait())
    registration = IntegrationEventBusRegistration(
        probe, topic, [Numbered], concurrency=3, retry=RetryPolicy(attempts=1)
    )
    async with RabbitMQIntegrationEventBus(rabbitmq_server.url, [registration]) as bus:
        await bus.send_many(topic, map(Numbered, range(10)))
        await eventually(lambda: len(probe.running) == 3)
        for _ in range(3):
            await asyncio.to_thread(rabbitmq_server.ctl, "close_all_connections", "cut by the test")
            await eventually(lambda: bus.health().healthy and len(connections(bus)) == 2)
        assert len(probe.running) == 3, "a handler was cancelled, or there are too many"
        gate.set()
        await eventually(lambda: len(probe.handled) >= 10)
        await eventually(lambda: left(rabbitmq_server, "cut-consumer@cut") == 0)
        assert sorted(probe.numbers) == list(range(10)), "handled more than once"
        assert not await bus.dead_letters(probe)


async def test_28_a_handler_that_ends_while_the_broker_is_away() -> None:
    gate = asyncio.Event()
    topic, probe = Topic("away"), Probe("away-consumer", lambda _: gate.wait())
    registration = IntegrationEventBusRegistration(probe, topic, [Numbered])
    with private_server() as server:
        async with RabbitMQIntegrationEventBus(server.url, [registration]) as bus:
            await bus.send(topic, Numbered(1))
            await eventually(lambda: probe.running)
            await settle_down(server)
            await asyncio.to_thread(server.kill)
            await eventually(lambda: not bus.health().connected)
            gate.set()
            await eventually(lambda: probe.handled)
            await asyncio.to_thread(server.start)
            await eventually(lambda: bus.health().healthy)
            await bus.send(topic, Numbered(2))
            await eventually(lambda: 2 in probe.numbers)
            await eventually(lambda: is_drained(server, "away-consumer@away"))
        assert probe.numbers == [1, 2], "handled again, though it had been handled here"
        assert left(server, "away-consumer@away") == 0


async def test_a_consumer_that_cannot_go_on_takes_its_process_down(
    rabbitmq_server: RabbitMQServer, new_worker: Callable[..., Any]
) -> None:
    worker = await new_worker()
    async with RabbitMQIntegrationEventBus(rabbitmq_server.url) as bus:
        await bus.send(Topic(worker.topic), Numbered(1))
        worker.start()
        await eventually(lambda: worker.noted("ended") == [1])
        worker.signal(signal.SIGSTOP)  # or it declares its queue before this does
        with Client(rabbitmq_server.url) as client:
            client.channel.queue_delete(worker.queue)
            client.channel.queue_declare(worker.queue, durable=True)  # of another type
        worker.signal(signal.SIGCONT)
        assert await worker.wait() == 1


def heard_from(bus: RabbitMQIntegrationEventBus) -> int:
    """Count the broker's heartbeats on the bus's connection that heard the fewest."""
    checkers = [each._connection._heartbeat_checker for each in connections(bus)]
    # There is none on a connection that was lost, as when this process had no core for seconds.
    heard = (int(each._heartbeat_frames_received) if each else 0 for each in checkers)
    return min(heard, default=0)


async def test_29_a_long_handler_keeps_its_event_and_a_dead_process_does_not(
    rabbitmq_server: RabbitMQServer,
    bus: RabbitMQIntegrationEventBus,
    new_worker: Callable[..., Any],
) -> None:
    worker = await new_worker(seconds=3600)
    topic = Topic(worker.topic)
    await bus.send(topic, Numbered(1))
    worker.start()
    await eventually(lambda: worker.noted("began") == [1])
    probe = Probe(worker.consumer)
    other = RabbitMQIntegrationEventBus(
        f"{rabbitmq_server.url}?heartbeat=1",
        [IntegrationEventBusRegistration(probe, topic, [Numbered])],
    )
    async with other:
        await eventually(lambda: heard_from(other) >= 4)
        assert not probe.arrivals, "it was given to another while its handler runs"
        worker.kill()
        await eventually(lambda: probe.numbers == [1])
