"""Conformance 22 to 29 on Redis Streams: processes that are killed, a server that is too.

Each test has a server of its own, which has every write on disk before it answers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from events.errors import (
    BusError,
    BusUnavailableError,
    SendOutcomeUnknownError,
)
from events.integration.brokering.problems import Problems
from events.integration.implementation.redis import RedisStreamsIntegrationEventBus, _settling
from events.integration.implementation.redis._connecting import DisconnectedError
from events.integration.implementation.redis._entries import Entry, Keys
from events.integration.topology import IntegrationEventBusRegistration, RetryPolicy, Topic
from events.testing import eventually
from events.testing.contracts import Numbered, Probe
from tests.brokers.redis_server import RedisServer
from tests.servers import end, free_port

ROOT = Path(__file__).parents[2]
TOPIC = Topic("faults")
LEASE = 1.0
QUICK = {"connect_timeout": 10.0, "send_timeout": 5.0}  # beside a server that is frozen
TIMEOUT = 120.0


@pytest.fixture
def server(tmp_path: Path) -> Generator[RedisServer, None, None]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


class Process:
    """A worker, and what it wrote."""

    def __init__(self, server: RedisServer, out: Path, **options: Any) -> None:
        self._out = out
        self._log = out.with_suffix(".log").open("a")
        arguments = [server.url, TOPIC.name, "worker", str(out), json.dumps(options)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.brokers.redis_worker", *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
            stdout=self._log,
            stderr=self._log,
        )

    @property
    def lines(self) -> list[str]:
        if not self._out.exists():
            return []
        text = self._out.read_text()
        return text[: text.rfind("\n") + 1].splitlines()

    def said(self, verb: str) -> list[int]:
        return [int(line.split()[1]) for line in self.lines if line.startswith(f"{verb} ")]

    async def until(
        self, verb: str, count: int, or_else: Callable[[], bool] = lambda: False
    ) -> None:
        await eventually(
            lambda: len(set(self.said(verb))) >= count or or_else(),
            TIMEOUT,
            saw=lambda: self.lines[-5:],
        )

    async def wrote(self, lines: int, or_else: Callable[[], bool]) -> None:
        await eventually(lambda: len(self.lines) >= lines or or_else(), TIMEOUT)

    async def ended(self) -> int:
        await eventually(lambda: self.process.poll() is not None, TIMEOUT)
        self._log.close()
        return self.process.returncode

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        self.process.send_signal(number)
        return await self.ended()


@pytest.fixture
def worker(server: RedisServer, tmp_path: Path) -> Generator[Any, None, None]:
    started: list[Process] = []

    def start(**options: Any) -> Process:
        process = Process(
            server, tmp_path / f"worker{len(started)}.txt", **{"lease": LEASE, **options}
        )
        started.append(process)
        return process

    yield start
    for process in started:
        end(process.process)
        process._log.close()


def new_bus(server: RedisServer, **options: Any) -> RedisStreamsIntegrationEventBus:
    settings: dict[str, Any] = {"lease": LEASE, "connect_timeout": 30.0, "send_timeout": 30.0}
    return RedisStreamsIntegrationEventBus(server.url, **settings | options)


def on(probe: Probe, **options: Any) -> IntegrationEventBusRegistration:
    return IntegrationEventBusRegistration(probe, TOPIC, [Numbered], **options)


@asynccontextmanager
async def sending(
    server: RedisServer, numbers: range
) -> AsyncGenerator[RedisStreamsIntegrationEventBus, None]:
    async with new_bus(server) as bus:
        await bus.send_many(TOPIC, map(Numbered, numbers))
        yield bus


async def pending(server: RedisServer) -> int:
    async with Redis.from_url(server.url) as redis:
        return sum(group["pending"] for group in await redis.xinfo_groups(TOPIC.name))


async def test_22_sigkill_of_the_consumer_loses_nothing(server: RedisServer, worker: Any) -> None:
    async with sending(server, range(40)):
        first = worker(delay=0.02)
        await first.until("end", 10)
        await first.kill()
        in_flight = await pending(server)  # also those whose acknowledgement was on its way
        assert in_flight <= 8, "it handles one at a time, and reads few ahead"
        second = worker()
        await eventually(
            lambda: set(first.said("end")) | set(second.said("end")) == set(range(40)), TIMEOUT
        )
        counts = Counter(first.said("end") + second.said("end"))
        assert sum(counts.values()) - 40 <= in_flight, counts
        await eventually(lambda: _none_pending(server), TIMEOUT)


async def _none_pending(server: RedisServer) -> bool:
    return await pending(server) == 0


async def test_23_a_restart_in_mid_stream_loses_nothing(server: RedisServer) -> None:
    probe = Probe("worker")
    accepted: set[int] = set()
    async with new_bus(server) as sender, new_bus(server) as bus:
        await bus.register(on(probe, concurrency=10))

        async def send(number: int) -> None:
            while number not in accepted:
                try:
                    await sender.send(TOPIC, Numbered(number))
                except BusError:
                    continue
                accepted.add(number)

        async def stream() -> None:
            for start in range(0, 10_000, 100):
                await asyncio.gather(*(send(start + n) for n in range(100)))

        streaming = asyncio.create_task(stream())
        await eventually(lambda: len(accepted) > 2000, TIMEOUT)
        await asyncio.to_thread(server.restart)
        await eventually(lambda: len(accepted) > 6000, TIMEOUT)
        await asyncio.to_thread(server.restart)
        await asyncio.wait_for(streaming, TIMEOUT)
        await eventually(lambda: set(probe.numbers) == set(range(10_000)), TIMEOUT)
        await eventually(lambda: _none_pending(server), TIMEOUT)
        assert bus.health().healthy


async def test_24_a_frozen_server_is_noticed(server: RedisServer) -> None:
    probe = Probe("worker")
    async with new_bus(server, **QUICK) as bus:
        await bus.register(on(probe))
        await bus.send(TOPIC, Numbered(0))
        await eventually(lambda: probe.numbers == [0])
        server.freeze()
        async with asyncio.timeout(TIMEOUT):
            with pytest.raises(SendOutcomeUnknownError):
                await bus.send(TOPIC, Numbered(1))
            with pytest.raises(BusUnavailableError):  # the connection is given up: this never left
                await bus.send(TOPIC, Numbered(2))
        assert not bus.health().connected
        server.thaw()
        await eventually(lambda: _sends(bus, 3), TIMEOUT)
        await eventually(lambda: 3 in probe.numbers, TIMEOUT)


async def _sends(bus: RedisStreamsIntegrationEventBus, number: int) -> bool:
    try:
        await bus.send(TOPIC, Numbered(number))
    except BusError:
        return False
    return True


async def test_24_a_send_keeps_its_deadline_while_others_have_longer_ones(
    server: RedisServer,
) -> None:
    async with new_bus(server, connect_timeout=300.0, send_timeout=0.5) as bus:
        server.freeze()
        reading = asyncio.ensure_future(bus.dead_letters("nobody"))  # it has five minutes
        await asyncio.sleep(0)
        async with asyncio.timeout(120):
            with pytest.raises(SendOutcomeUnknownError):
                await bus.send(TOPIC, Numbered(1))
        server.thaw()
        with suppress(BusUnavailableError):  # it was behind the same silence
            await reading


async def test_24_a_bus_that_sends_nothing_notices_too(server: RedisServer) -> None:
    async with new_bus(server, **QUICK) as bus:
        server.freeze()
        await eventually(lambda: not bus.health().connected, TIMEOUT)
        server.thaw()
        await eventually(lambda: bus.health().connected, TIMEOUT)


async def test_24_shutdown_ends_while_the_server_is_frozen(server: RedisServer) -> None:
    bus = new_bus(server, **QUICK)
    await bus.register(on(Probe("worker")))
    await bus.startup()
    server.freeze()
    async with asyncio.timeout(TIMEOUT):
        await bus.shutdown()


async def test_25_a_server_that_is_down_is_a_clear_error() -> None:
    url = f"redis://user:secret@127.0.0.1:{free_port()}/0"
    bus = RedisStreamsIntegrationEventBus(url, connect_timeout=0.5)
    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(BusUnavailableError) as caught:
            await bus.startup()
    assert "refused" in str(caught.value).lower() or "connect" in str(caught.value).lower()
    assert "secret" not in str(caught.value)


async def test_25_startup_waits_if_asked_to(server: RedisServer) -> None:
    server.kill()
    probe = Probe("worker")
    bus = new_bus(server, connect_timeout=120)
    await bus.register(on(probe))
    starting = asyncio.create_task(bus.startup())
    await asyncio.sleep(0)
    assert not starting.done()
    await asyncio.to_thread(server.start)
    await asyncio.wait_for(starting, TIMEOUT)
    await bus.send(TOPIC, Numbered(1))
    await eventually(lambda: probe.numbers == [1])
    await bus.shutdown()


async def test_26_sigterm_lets_the_running_end_and_leaves_the_rest(
    server: RedisServer, worker: Any
) -> None:
    count = 100
    async with sending(server, range(count)):
        first = worker(delay=0.3, concurrency=2)
        await first.until("begin", 2)
        assert await first.kill(signal.SIGTERM) == 0
        assert set(first.said("begin")) == set(first.said("end"))
        assert len(first.said("end")) < count
        second = worker()
        await eventually(
            lambda: set(first.said("end")) | set(second.said("end")) == set(range(count)), TIMEOUT
        )
        assert not set(first.said("end")) & set(second.said("end"))
        attempts = {line.split()[2] for line in second.lines if line.startswith("begin")}
        assert attempts == {"1"}


async def test_27_what_kills_its_process_ends_as_a_dead_letter(
    server: RedisServer, worker: Any
) -> None:
    async with sending(server, range(10)) as bus:
        processes = [worker(killer=3, max_crashes=3)]
        for _ in range(2):
            assert await processes[-1].ended() == -signal.SIGKILL
            processes.append(worker(killer=3, max_crashes=3))
        assert await processes[-1].ended() == -signal.SIGKILL
        processes.append(worker(killer=3, max_crashes=3))

        async def letters() -> bool:
            return len(await bus.dead_letters("worker")) == 1

        await eventually(letters, TIMEOUT)
        (letter,) = await bus.dead_letters("worker")
        assert letter.reason == "crashed"
        assert letter.attempts == 3
        assert b'"number":3' in letter.message.body
        await eventually(
            lambda: {n for p in processes for n in p.said("end")} == set(range(10)) - {3},
            TIMEOUT,
        )
        assert [n for p in processes for n in p.said("begin")].count(3) == 3


async def test_28_a_lost_connection_cancels_no_handler(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "events.integration")
    gate = asyncio.Event()
    probe = Probe("worker", lambda _: gate.wait())
    async with new_bus(server, lease=20) as bus:
        await bus.register(on(probe, concurrency=3))
        await bus.send_many(TOPIC, map(Numbered, range(5)))
        await eventually(lambda: len(probe.running) == 3)
        await asyncio.to_thread(server.restart)
        # Until then it may not have noticed that it lost the connection.
        await eventually(lambda: "is connected again" in caplog.text, TIMEOUT)
        await bus.send(TOPIC, Numbered(5))
        gate.set()
        await eventually(lambda: len(probe.handled) >= 6, TIMEOUT)
        await eventually(lambda: _none_pending(server), TIMEOUT)
        assert sorted(probe.numbers) == list(range(6))


async def test_29_a_long_handler_keeps_its_event_and_a_dead_process_does_not(
    server: RedisServer, worker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "events.integration")
    async with sending(server, range(1)):
        # More than twice its lease; that is longer than a busy machine keeps it from renewing.
        slow = worker(delay=25, lease=12.0)
        await slow.until("begin", 1)
        probe = Probe("worker")
        async with new_bus(server, lease=12.0) as bus:
            await bus.register(on(probe))
            await slow.until("end", 1)
            assert probe.numbers == []
            await bus.send(TOPIC, Numbered(1))
            # To its acknowledgement, so that the next one is all that the next process can begin.
            await eventually(lambda: 1 in probe.numbers or 1 in slow.said("end"), TIMEOUT)
            await eventually(lambda: _none_pending(server), TIMEOUT)
        await bus.shutdown()
        hung = worker(delay=600)
        await slow.kill()
        async with new_bus(server) as bus:
            await bus.send(TOPIC, Numbered(2))
            await hung.until("begin", 1)
            await hung.kill()
            await bus.register(on(probe))
            await eventually(lambda: 2 in probe.numbers, TIMEOUT)
            assert probe.arrivals[-1].delivery.crashes == 1
            (logged,) = [r.message for r in caplog.records if "takes over" in r.message]
            assert logged.startswith(f"consumer 'worker' on topic {TOPIC.name!r} takes over ")
            assert logged.endswith(f"a process that died or was silent for {LEASE:g} s")


async def test_a_retry_that_waits_survives_the_process_and_the_server(server: RedisServer) -> None:
    async def fail(_: Numbered) -> None:
        raise RuntimeError("not now")

    probe = Probe("worker", fail)
    retry = RetryPolicy(attempts=100, delay=1.5, factor=1, jitter=0, in_place=0)
    async with new_bus(server) as bus:
        await bus.register(on(probe, retry=retry))
        await bus.send(TOPIC, Numbered(1))
        await eventually(lambda: probe.attempts == [1])
    await asyncio.to_thread(server.restart)
    probe.react = None
    async with new_bus(server) as bus:
        await bus.register(on(probe, retry=retry))
        await eventually(lambda: probe.numbers == [1], TIMEOUT)
        # A second one may have been made before the shutdown.
        assert probe.attempts == list(range(1, max(len(probe.attempts), 2) + 1))


async def test_retries_survive_kills_at_any_moment(server: RedisServer, worker: Any) -> None:
    """Every event fails once, and is retried through the broker, in processes that are killed."""
    count = 200

    def over() -> bool:
        return len(_ended(processes)) == count

    async with sending(server, range(count)):
        processes = [worker(flaky=True, delay=0.005, max_crashes=50)]
        for kills in range(1, 6):
            await processes[-1].until("begin", 5, or_else=over)
            # After another number of lines each time, so at another step of another event.
            enough = len(processes[-1].lines) + 7 * kills
            await processes[-1].wrote(enough, or_else=over)
            await processes[-1].kill()
            processes.append(worker(flaky=True, delay=0.005, max_crashes=50))
        await eventually(
            lambda: _ended(processes) == set(range(count)), TIMEOUT, saw=lambda: _ended(processes)
        )
        await eventually(lambda: _none_pending(server), TIMEOUT)
    async with Redis.from_url(server.url) as redis:
        assert await redis.zcard(f"events:{{{TOPIC.name}}}:worker:due") == 0
        assert await redis.xlen(f"events:{{{TOPIC.name}}}:worker:dead") == 0


def _ended(processes: list[Process]) -> set[int]:
    return {number for process in processes for number in process.said("end")}


class ClosedLink:
    """A link after its bus was shut down."""

    is_open = False

    def __init__(self) -> None:
        self.asked = 0

    def call(self, *_: object) -> asyncio.Future[Any]:
        self.asked += 1
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer.set_exception(DisconnectedError("it is closed", sent=False))
        return answer


async def test_an_ack_that_no_connection_can_carry_any_more_is_not_tried_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after a shutdown while the server was away; the event is redelivered after its lease."""
    for pause in ("_FIRST_PAUSE", "_LONGEST_PAUSE", "_GATHER"):
        monkeypatch.setattr(_settling, pause, 0.0)
    link: Any = ClosedLink()
    keys = Keys(TOPIC.name, "worker")
    settler = _settling.Settler(link, keys, "me", Problems("worker"), lambda _: None)
    settler.ack(Entry.read(keys, keys.topic, (b"1-0", [b"data", b"{}"])))
    for _ in range(20):
        await asyncio.sleep(0)
    assert link.asked == 1


async def test_a_consumer_that_ends_by_itself_takes_the_process_down(
    server: RedisServer, worker: Any
) -> None:
    async with sending(server, range(1)):
        process = worker(broken=True)
        assert await process.ended() == 1
        assert process.said("begin") == []
        log = process._out.with_suffix(".log").read_text()
        assert "ConsumerStoppedError: consumer 'worker' on topic 'faults' stopped by itself" in log
