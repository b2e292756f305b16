import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import pytest

from events.integration.message import Ack, Release, Settlement
from events.integration.pipeline.scheduler import DeliveryScheduler

bound: ContextVar[str] = ContextVar("bound", default="nothing")


class Jobs:
    """Jobs that wait until they are released, and record their outcome."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.ended: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}

    def __call__(self, name: str) -> Callable[[], Coroutine[Any, Any, Settlement]]:
        gate = self.gates[name] = asyncio.Event()

        async def work() -> Settlement:
            self.started.append(name)
            await gate.wait()
            self.ended.append(name)
            return Ack()

        return work

    async def let_go(self, *names: str) -> None:
        for name in names:
            self.gates[name].set()
        await settle()


def loop_time() -> float:
    return asyncio.get_running_loop().time()


async def settle() -> None:
    """Let the loop turn until nothing more is ready: jobs here wait for gates only."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_one_at_a_time_in_order_of_arrival() -> None:
    scheduler, jobs = DeliveryScheduler(1), Jobs()
    futures = [scheduler.submit(jobs(name)) for name in "abc"]
    await settle()
    assert jobs.started == ["a"]
    await jobs.let_go("b", "c", "a")
    assert jobs.started == jobs.ended == ["a", "b", "c"]
    assert [future.result() for future in futures] == [Ack()] * 3


async def test_no_more_at_once_than_the_concurrency() -> None:
    scheduler, jobs = DeliveryScheduler(2), Jobs()
    for name in "abcd":
        scheduler.submit(jobs(name))
    await settle()
    assert jobs.started == ["a", "b"]
    assert scheduler.in_flight == 2
    await jobs.let_go("b")
    assert jobs.started == ["a", "b", "c"]
    await jobs.let_go("a", "c", "d")
    assert scheduler.in_flight == 0


async def test_in_order_within_a_key_and_at_once_between_keys() -> None:
    scheduler, jobs = DeliveryScheduler(3), Jobs()
    for name, key in [
        ("a1", "a"),
        ("a2", "a"),
        ("b1", "b"),
        ("b2", "b"),
        ("n1", None),
        ("n2", None),
    ]:
        scheduler.submit(jobs(name), key)
    await settle()
    assert jobs.started == ["a1", "b1", "n1"]
    await jobs.let_go("b1")
    assert jobs.started == ["a1", "b1", "n1", "n2"]  # n2 was in line before b1 made way for b2
    await jobs.let_go("n1", "n2", "a2", "a1", "b2")
    assert jobs.ended.index("a1") < jobs.ended.index("a2")
    assert jobs.ended.index("b1") < jobs.ended.index("b2")
    assert len(jobs.ended) == 6
    assert not scheduler._behind  # a key leaves nothing behind


async def test_closing_releases_what_waits_and_lets_the_running_end() -> None:
    scheduler, jobs = DeliveryScheduler(1), Jobs()
    running = scheduler.submit(jobs("running"), "k")
    waiting = scheduler.submit(jobs("waiting"))
    behind = scheduler.submit(jobs("behind"), "k")
    await settle()
    closing = asyncio.create_task(scheduler.close(grace=30))
    await settle()
    assert (waiting.result(), behind.result()) == (Release(), Release())
    assert not closing.done()
    await jobs.let_go("running")
    assert await closing == 0
    assert running.result() == Ack()
    assert jobs.started == ["running"]
    assert scheduler.submit(jobs("late")).result() == Release()


async def test_what_outlasts_the_grace_is_cancelled_and_released() -> None:
    scheduler, jobs = DeliveryScheduler(1), Jobs()
    future = scheduler.submit(jobs("stuck"))
    await settle()
    assert await scheduler.close(grace=0.01) == 1
    assert future.result() == Release()
    assert jobs.ended == []


async def test_a_grace_can_be_shortened() -> None:
    scheduler, jobs = DeliveryScheduler(1), Jobs()
    future = scheduler.submit(jobs("stuck"))
    await settle()
    closing = asyncio.create_task(scheduler.close(grace=3_600))
    await settle()
    scheduler.hurry(0)
    assert await closing == 1
    assert future.result() == Release()
    assert all(timer.cancelled() or timer.when() <= loop_time() for timer in scheduler._timers)


async def test_a_job_that_goes_on_when_cancelled_is_released_and_left_to_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("events.integration.pipeline.scheduler._CANCEL_TIMEOUT", 0)
    scheduler, gate = DeliveryScheduler(1), asyncio.Event()

    async def uncancellable() -> Settlement:
        while not gate.is_set():
            with suppress(asyncio.CancelledError):
                await gate.wait()
        return Ack()

    future = scheduler.submit(uncancellable)
    await settle()
    (task,) = scheduler._running
    assert await scheduler.close(grace=0) == 1
    assert future.result() == Release()
    assert scheduler.abandoned == 1
    gate.set()
    assert await task == Ack()  # to which nobody listens any more
    assert scheduler.in_flight == 0


async def test_a_job_that_ends_when_cancelled_is_not_abandoned_though_the_loop_was_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("events.integration.pipeline.scheduler._CANCEL_TIMEOUT", 0)
    scheduler, jobs = DeliveryScheduler(1), Jobs()
    future = scheduler.submit(jobs("a"))
    await settle()
    assert await scheduler.close(grace=0) == 1
    assert future.result() == Release()
    assert scheduler.abandoned == 0


async def test_a_job_sees_neither_what_its_deliverer_bound_nor_what_another_job_did() -> None:
    seen: list[str] = []

    async def work() -> Settlement:
        seen.append(bound.get())
        bound.set("another job")
        return Ack()

    bound.set("registration")
    scheduler = DeliveryScheduler(1)
    bound.set("deliverer")
    for _ in range(2):
        await scheduler.submit(work)
    assert seen == ["registration", "registration"]


async def test_a_job_that_was_cancelled_from_outside_is_released() -> None:
    scheduler, jobs = DeliveryScheduler(1), Jobs()
    future = scheduler.submit(jobs("a"))
    await settle()
    (task,) = scheduler._running
    assert scheduler.runs(task)
    assert not scheduler.runs(asyncio.current_task())
    task.cancel()
    assert await future == Release()


@pytest.mark.parametrize("keys", [1, 3, 7])
async def test_a_thousand_jobs_of_a_few_keys_keep_their_order(keys: int) -> None:
    scheduler = DeliveryScheduler(4)
    seen: dict[int, list[int]] = {key: [] for key in range(keys)}

    async def work(number: int) -> Settlement:
        for _ in range(number % 3):
            await asyncio.sleep(0)
        seen[number % keys].append(number)
        return Ack()

    def job(number: int) -> Callable[[], Coroutine[Any, Any, Settlement]]:
        return lambda: work(number)

    await asyncio.gather(*[scheduler.submit(job(n), n % keys) for n in range(1000)])
    assert seen == {key: list(range(key, 1000, keys)) for key in range(keys)}
