"""Conformance 22 to 29 on NATS: servers and processes are really killed, frozen, cut off."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from nats.errors import Error as NatsError

from events.errors import BusError, BusUnavailableError, SendOutcomeUnknownError
from events.integration import IntegrationEventBusRegistration, RetryPolicy, Topic
from events.integration.implementation.nats import NatsIntegrationEventBus, NatsTransport
from events.integration.implementation.nats._attempts import Attempts, Record
from events.integration.pipeline import pausing
from events.testing import eventually
from events.testing.contracts import Numbered, Probe
from tests.brokers.nats_server import NatsServer
from tests.servers import end, free_port

ROOT = Path(__file__).parents[2]
TOPIC = Topic("faults")
PREFIX = "faults"


class Worker:
    """A consumer process, started again and again over the same notes."""

    def __init__(self, server: NatsServer, folder: Path, **options: Any) -> None:
        self._notes = folder / f"notes-{os.urandom(4).hex()}"
        fixed = {"url": server.url, "topic": TOPIC.name, "notes": str(self._notes)}
        self._options: dict[str, Any] = {**fixed, "prefix": PREFIX, **options}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **others: Any) -> None:
        """Start it, with other options this time if they are given."""
        argument = json.dumps({**self._options, **others})
        command = [sys.executable, "-m", "tests.brokers.nats_worker", argument]
        path = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
        environment = os.environ | {"PYTHONPATH": path}
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def exit(self) -> int:
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait, 60)

    def end(self) -> None:
        if self._process is not None:
            end(self._process)

    def noted(self, word: str) -> list[int]:
        if not self._notes.exists():
            return []
        lines = (line.split() for line in self._notes.read_text().splitlines())
        return [int(number) for noted, number in lines if noted == word]


NewWorker: TypeAlias = Callable[..., Worker]


@pytest.fixture
def server(tmp_path: Path) -> Generator[NatsServer]:
    with NatsServer(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def new_worker(server: NatsServer, tmp_path: Path) -> Generator[NewWorker]:
    workers: list[Worker] = []

    def make(**options: Any) -> Worker:
        workers.append(Worker(server, tmp_path, **options))
        return workers[-1]

    yield make
    for worker in workers:
        worker.end()


def bus_at(server: NatsServer, *registrations: Any, **options: Any) -> NatsIntegrationEventBus:
    settings: dict[str, Any] = {"lease": 1.0, "prefix": PREFIX, "send_timeout": 60.0, **options}
    return NatsIntegrationEventBus(server.url, registrations, **settings)


def registered(probe: Probe, **options: Any) -> IntegrationEventBusRegistration:
    return IntegrationEventBusRegistration(probe, TOPIC, [Numbered], **options)


def link_of(bus: NatsIntegrationEventBus) -> Any:
    assert isinstance(bus.transport, NatsTransport)
    return bus.transport._link


def attempts_of(bus: NatsIntegrationEventBus) -> Attempts:
    assert isinstance(bus.transport, NatsTransport)
    return bus.transport._session.attempts


async def pending(bus: NatsIntegrationEventBus, consumer: str) -> tuple[int, int]:
    """How many messages the consumer has yet to get, and yet to acknowledge."""
    info = await link_of(bus).client.jsm().consumer_info(TOPIC.name, consumer)
    return info.num_pending, info.num_ack_pending


async def test_22_a_killed_consumer_loses_nothing(
    server: NatsServer, new_worker: NewWorker
) -> None:
    # So slow that it is not done before it is killed, however busy the machine is.
    worker, count = new_worker(seconds=0.15, concurrency=4), 1_000
    async with bus_at(server) as bus:
        await bus.send_many(TOPIC, map(Numbered, range(count)))
        worker.start()
        await eventually(lambda: len(worker.noted("ended")) >= 20)
        worker.signal(signal.SIGKILL)
        await worker.exit()
        ended = len(worker.noted("ended"))
        worker.start(seconds=0.02)
        await eventually(lambda: set(worker.noted("ended")) == set(range(count)))
        await eventually(lambda: _is_drained(bus, "worker"))
    counts = Counter(worker.noted("ended"))
    assert ended < count
    # What was ended and not yet acknowledged, and what ran.
    assert sum(counts.values()) - count <= 8


async def _is_drained(bus: NatsIntegrationEventBus, consumer: str) -> bool:
    return await pending(bus, consumer) == (0, 0)


async def test_23_a_broker_that_is_restarted_loses_nothing(server: NatsServer) -> None:
    probe, accepted = Probe("restarted"), set[int]()
    async with (
        bus_at(server, registered(probe, concurrency=10)) as bus,
        bus_at(server) as sender,
    ):
        failures: list[BusError] = []

        async def send(first: int) -> None:
            for number in range(first, 10_000, 100):
                try:
                    await sender.send(TOPIC, Numbered(number))
                except BusError as error:
                    failures.append(error)
                else:
                    accepted.add(number)

        sending = asyncio.gather(*map(send, range(100)))
        await eventually(lambda: len(accepted) > 3_000)
        await asyncio.to_thread(server.restart)
        await sending
        await eventually(lambda: set(probe.numbers) >= accepted, saw=lambda: len(probe.numbers))
        await eventually(lambda: _is_drained(bus, "restarted"))
        assert bus.health().healthy
    assert not failures, f"{len(failures)} failed, the first: {failures[0]}"
    assert accepted == set(range(10_000))


async def test_24_a_frozen_broker_is_distinguished_from_a_slow_one(server: NatsServer) -> None:
    probe = Probe("thawed")
    async with bus_at(server, registered(probe), send_timeout=15.0) as bus:
        await bus.send(TOPIC, Numbered(0))
        server.freeze()
        async with asyncio.timeout(120):  # one after the other, they would take 100 deadlines
            with pytest.raises(SendOutcomeUnknownError):
                await bus.send(TOPIC, Numbered(1))
            many = await asyncio.gather(
                *(bus.send(TOPIC, Numbered(2, text="x" * 100_000)) for _ in range(100)),
                return_exceptions=True,
            )
        server.thaw()
        assert all(isinstance(outcome, BusError) for outcome in many)

        async def sent() -> bool:
            try:
                await bus.send(TOPIC, Numbered(3))
            except BusError:
                return False
            return True

        await eventually(sent)
        await eventually(lambda: 3 in probe.numbers)


async def test_24_a_hiccup_is_survived(server: NatsServer) -> None:
    async with bus_at(server) as bus:
        await bus.send(TOPIC, Numbered(0))
        server.freeze()
        sending = asyncio.gather(*(bus.send(TOPIC, Numbered(n)) for n in range(10)))
        await asyncio.wait([sending], timeout=1.0)
        assert not sending.done()
        server.thaw()
        await sending


async def test_24_startup_and_shutdown_end_in_time_with_a_frozen_broker(
    server: NatsServer,
) -> None:
    bus = bus_at(server, registered(Probe("stopped")), send_timeout=300.0)
    await bus.startup()
    server.freeze()
    other = bus_at(server, connect_timeout=1.0)
    async with asyncio.timeout(120):
        with pytest.raises(BusUnavailableError):
            await other.startup()
        await bus.shutdown()
    server.thaw()


async def test_25_a_broker_that_is_down_at_startup_is_named() -> None:
    port = free_port()
    bus = NatsIntegrationEventBus(f"nats://me:secret@127.0.0.1:{port}", connect_timeout=1.0)
    async with asyncio.timeout(60):
        with pytest.raises(BusUnavailableError) as raised:
            await bus.startup()
    assert str(port) in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "secret" not in repr(bus)


async def test_25_a_wrong_password_is_reported_at_once_and_not_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Guarded(NatsServer):
        more = ("--user", "me", "--pass", "right")

        def address(self, password: str) -> str:
            return self.url.replace("//", f"//me:{password}@")

    with Guarded(tmp_path) as server:
        bus = NatsIntegrationEventBus(server.address("wrong-one"), connect_timeout=3600)
        async with asyncio.timeout(60):
            with pytest.raises(BusUnavailableError, match="(?i)authorization violation") as raised:
                await bus.startup()
        async with NatsIntegrationEventBus(server.address("right"), prefix=PREFIX) as bus:
            await bus.send(TOPIC, Numbered(1))
    assert "wrong-one" not in str(raised.value) + caplog.text


async def test_25_a_server_without_jetstream_is_reported(tmp_path: Path) -> None:
    class Plain(NatsServer):
        def command(self, binary: str) -> list[str]:
            return super().command(binary)[:-3]

    with Plain(tmp_path) as server, pytest.raises(BusUnavailableError, match="-js"):
        await NatsIntegrationEventBus(server.url).startup()


async def test_25_startup_waits_for_a_broker_that_comes_late(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    bus = bus_at(server, connect_timeout=120.0)
    starting = asyncio.create_task(bus.startup())
    await asyncio.wait([starting], timeout=0.3)
    assert not starting.done()
    await asyncio.to_thread(server.start)
    try:
        await starting
        await bus.send(TOPIC, Numbered(0))
        await bus.shutdown()
    finally:
        server.kill()


async def test_26_a_terminated_consumer_ends_what_runs(
    server: NatsServer, new_worker: NewWorker
) -> None:
    worker, count = new_worker(seconds=0.3, lease=30.0), 60
    async with bus_at(server) as bus:
        await bus.send_many(TOPIC, map(Numbered, range(count)))
        worker.start()
        await eventually(lambda: len(worker.noted("began")) >= 2)
        worker.signal(signal.SIGTERM)
        assert await worker.exit() == 0
        assert worker.noted("began") == worker.noted("ended")
        assert len(worker.noted("ended")) < count
        worker.start()
        # Long before the lease ends: what was not begun has been given back.
        await eventually(lambda: len(worker.noted("ended")) >= count)
        await eventually(lambda: _is_drained(bus, "worker"))
    assert sorted(worker.noted("ended")) == list(range(count))
    assert set(worker.noted("attempt")) == {1}


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_27_a_message_that_kills_its_process_is_a_dead_letter(
    server: NatsServer, new_worker: NewWorker, concurrency: int
) -> None:
    worker = new_worker(deadly=3, concurrency=concurrency, seconds=0.05, max_crashes=3)
    async with bus_at(server) as bus:
        await bus.send_many(TOPIC, map(Numbered, range(8)))
        deaths = 0
        while not (letters := await bus.dead_letters("worker")):
            worker.start()
            exited = asyncio.create_task(worker.exit())
            while not exited.done() and not (letters := await bus.dead_letters("worker")):
                await asyncio.wait([exited], timeout=0.1)
            if letters:
                break
            assert await exited == -signal.SIGKILL
            deaths += 1
        others = {0, 1, 2, 4, 5, 6, 7}
        await eventually(lambda: set(worker.noted("ended")) == others)
        worker.end()
        (letter,) = letters
        assert deaths == 3
        assert worker.noted("began").count(3) == 3
        assert b'"number":3' in letter.message.body
        assert letter.reason == "crashed"
        assert letter.attempts == 3


async def test_28_a_lost_connection_cancels_no_handler(server: NatsServer) -> None:
    gate = asyncio.Event()
    probe = Probe("steadfast", lambda _: gate.wait())
    async with bus_at(server, registered(probe), lease=5.0) as bus:
        await bus.send(TOPIC, Numbered(1))
        await eventually(lambda: probe.running)
        await asyncio.to_thread(server.restart)
        await eventually(lambda: not bus.transport.connected or bus.health().healthy)
        await eventually(lambda: bus.health().healthy)
        assert probe.running
        gate.set()
        await eventually(lambda: probe.numbers == [1])
        await eventually(lambda: _is_drained(bus, "steadfast"))
    assert probe.attempts == [1]


async def test_29_a_long_handler_keeps_its_event(server: NatsServer) -> None:
    gate = asyncio.Event()
    probe, twin = Probe("long", lambda _: gate.wait()), Probe("long")
    lease = 12.0  # longer than a busy machine keeps this process from renewing it
    async with bus_at(server, registered(probe), lease=lease) as bus:
        await bus.send(TOPIC, Numbered(1))
        await eventually(lambda: probe.running)
        async with bus_at(server, registered(twin), lease=lease):
            # More than twice the lease.
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(eventually(lambda: twin.arrivals), 25)
            gate.set()
            await eventually(lambda: probe.numbers == [1])
    assert not twin.arrivals


async def test_29_a_dead_process_s_event_is_given_to_another(
    server: NatsServer, new_worker: NewWorker
) -> None:
    worker, twin = new_worker(seconds=60), Probe("worker")
    async with bus_at(server) as bus:
        await bus.send(TOPIC, Numbered(1))
        worker.start()
        await eventually(lambda: worker.noted("began"))
        worker.signal(signal.SIGKILL)
        await bus.register(registered(twin))
        await eventually(lambda: twin.numbers == [1])
    assert twin.attempts == [1]  # no attempt that is known to have begun, but a death


async def test_a_consumer_that_ended_by_itself_takes_the_process_down(
    server: NatsServer, new_worker: NewWorker
) -> None:
    worker = new_worker()
    async with bus_at(server) as bus:
        await bus.send(TOPIC, Numbered(1))
        worker.start()
        await eventually(lambda: worker.noted("ended"))
        jetstream = link_of(bus).client.jetstream()
        await jetstream.update_stream(name=TOPIC.name, subjects=["elsewhere.>"])
        await jetstream.delete_consumer(TOPIC.name, "worker")
        assert await worker.exit() not in (0, None)


async def test_a_deleted_consumer_is_made_again_loudly(
    server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    probe = Probe("deleted")
    async with bus_at(server, registered(probe)) as bus:
        await bus.send(TOPIC, Numbered(1))
        await eventually(lambda: probe.numbers == [1])
        await link_of(bus).client.jetstream().delete_consumer(TOPIC.name, "deleted")
        await bus.send(TOPIC, Numbered(2))
        await eventually(lambda: 2 in probe.numbers)
    assert "has been recreated" in caplog.text


async def test_a_stream_that_is_deleted_is_made_again(server: NatsServer) -> None:
    probe = Probe("kept")
    async with bus_at(server, registered(probe)) as bus:
        await bus.send(TOPIC, Numbered(1))
        await eventually(lambda: probe.numbers == [1])
        await link_of(bus).client.jetstream().delete_stream(TOPIC.name)
        await bus.send(TOPIC, Numbered(2))
        await eventually(lambda: probe.numbers == [1, 2])


async def test_a_restart_logs_one_line_for_each_change(
    server: NatsServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pausing, "LOOK_EVERY", 0.01)  # so also within the outage
    caplog.set_level("INFO", logger="events.integration")
    async with bus_at(server, registered(Probe("calm"))) as bus:
        await bus.send(TOPIC, Numbered(1))
        caplog.clear()
        await asyncio.to_thread(server.kill)
        await eventually(lambda: not bus.transport.connected)
        await asyncio.to_thread(server.start)
        await eventually(lambda: bus.health().healthy)
        await bus.send(TOPIC, Numbered(2))
    lines = [record.getMessage() for record in caplog.records]
    # What it made at the server in the meantime is a line of its own, once.
    lost, *_, again = [line for line in lines if line.startswith("NATS at")]
    assert "lost" in lost
    assert "again" in again
    assert len(lines) == len(set(lines))
    assert not [line for line in lines if "are paused" in line], lines
    assert not any(record.exc_info for record in caplog.records)


# --- what is left behind ----------------------------------------------------------------------


async def entries(bus: NatsIntegrationEventBus) -> int:
    """How many counts of attempts the server keeps."""
    info = await link_of(bus).client.jsm().stream_info(f"{PREFIX}@attempts")
    return int(info.state.messages)


async def test_a_cut_connection_leaves_no_count_of_attempts_behind(server: NatsServer) -> None:
    kept: list[int] = []

    async def fail_once(_event: Any) -> None:
        if probe.attempts[-1] == 1:
            raise ValueError("once")
        if not kept:
            kept.append(await entries(bus))
            lost: Any = link_of(bus).client._transport
            lost._io_writer.transport.abort()

    probe = Probe("cut", fail_once)
    retry = RetryPolicy(attempts=3, delay=0.01, in_place=0)
    async with bus_at(server, registered(probe, retry=retry)) as bus:
        await bus.send(TOPIC, Numbered(1))
        await eventually(lambda: probe.numbers == [1])
        assert kept == [1]
        await eventually(lambda: _has_entries(bus, 0))


async def test_what_a_dead_process_left_of_attempts_goes_when_its_event_is_settled(
    server: NatsServer,
) -> None:
    probe = Probe("dead")
    async with bus_at(server, registered(probe)) as bus:
        await bus.send(TOPIC, Numbered(1))
        await eventually(lambda: _is_drained(bus, "dead"))
        attempts = attempts_of(bus)
        await attempts.write(f"{TOPIC.name}.dead.1-1700", Record(1, 0))
        await attempts.write(f"{TOPIC.name}.dead.2-1701", Record(1, 0))
        await attempts.write(f"{TOPIC.name}.other.1-1700", Record(1, 0))
        assert await entries(bus) == 3
    async with bus_at(server, registered(probe)) as bus:
        await eventually(lambda: _has_entries(bus, 2))
        assert await attempts_of(bus).read(f"{TOPIC.name}.dead.2-1701", 2) == Record(1, 0)


async def _has_entries(bus: NatsIntegrationEventBus, count: int) -> bool:
    try:
        return await entries(bus) == count
    except (NatsError, BusError):  # it is not connected yet
        return False


async def test_24_a_frozen_broker_holds_a_shutdown_up_for_a_moment(server: NatsServer) -> None:
    running, ends = asyncio.Event(), asyncio.Event()

    async def wait(_event: Any) -> None:
        running.set()
        await ends.wait()

    bus = bus_at(server, registered(Probe("stopped", wait), concurrency=3), send_timeout=300.0)
    await bus.startup()
    await bus.send_many(TOPIC, map(Numbered, range(20)))
    await running.wait()
    server.freeze()
    sending = asyncio.create_task(bus.send(TOPIC, Numbered(20)))
    async with asyncio.timeout(60):  # long before the deadline of what is sent
        await bus.shutdown(grace=0.5)
    with pytest.raises(SendOutcomeUnknownError):
        await sending
    server.thaw()
    probe = Probe("stopped")
    async with bus_at(server, registered(probe, concurrency=3)):
        await eventually(lambda: set(probe.numbers) >= set(range(20)))
