"""When a delivery's turn comes: at most so many at once, and in order where order is asked for.

A job is in one of three places:

    waiting --> running --> settled          at most `concurrency` are running
    behind its key ----^                     while an earlier one of its key is waiting or running

Everything is entered in order of arrival, so with a concurrency of 1 all jobs run in that order.
Each job runs in a task of its own, and so in a context of its own: what one handler binds there, as
loggers do, the next does not see. On closing, jobs that never ran are released, running ones end,
those that outlast the grace are cancelled, and those that go on all the same are abandoned: they
are released, so that whoever closes is not held up by them, and nobody waits for them any more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Iterable
from contextvars import copy_context
from typing import Any, TypeAlias

from msgspec import Struct

from events.integration.message import Release, Settlement

__all__ = ["DeliveryScheduler"]

_DEAF = 5.0  # seconds that a job has to end after it was cancelled

Work: TypeAlias = Callable[[], Coroutine[Any, Any, Settlement]]


class _Job(Struct, eq=False):
    work: Work
    key: Hashable | None
    future: asyncio.Future[Settlement]
    task: asyncio.Task[Settlement] | None = None  # while it runs


class DeliveryScheduler:
    """Run the jobs of one registration. Made inside the event loop that it runs them in.

    Their tasks bear its `name`.
    """

    def __init__(self, concurrency: int, name: str = "handler") -> None:
        self._concurrency = concurrency
        self._name = name
        self._loop = asyncio.get_running_loop()
        # The registering code's context: a job must not inherit that of whoever delivers it, which
        # on an in-process bus is the sender's handler.
        self._context = copy_context()
        self._running: dict[asyncio.Task[Settlement], _Job] = {}
        self._waiting: deque[_Job] = deque()
        self._behind: dict[Hashable, deque[_Job]] = {}
        self._closing = False
        self._cancelled: set[asyncio.Task[Settlement]] = set()
        self._timers: list[asyncio.TimerHandle] = []
        self._held: list[_Job] = []
        self.abandoned = 0

    def submit(self, work: Work, key: Hashable | None = None) -> asyncio.Future[Settlement]:
        """Run `work` when its turn comes; the future gets its settlement and no exception.

        Jobs of one key run in order. A key of None has no order. Once closing, jobs are released.
        """
        job = _Job(work, key, self._loop.create_future())
        if self._closing:
            job.future.set_result(Release())
        elif key is not None and key in self._behind:
            self._behind[key].append(job)
        else:
            if key is not None:
                self._behind[key] = deque()
            if len(self._running) < self._concurrency:
                self._start(job)
            else:
                self._waiting.append(job)
        return job.future

    @property
    def in_flight(self) -> int:
        """Return how many jobs are running."""
        return len(self._running)

    def runs(self, task: asyncio.Task[Any] | None) -> bool:
        """Tell whether the task is a job of this scheduler."""
        return task in self._running

    def has_cancelled(self, task: asyncio.Task[Any] | None) -> bool:
        """Tell whether the task is a job that this scheduler cancelled, as it outlasted a grace."""
        return task in self._cancelled

    async def close(self, grace: float) -> int:
        """Release what waits, let the running end for `grace` seconds, then cancel the rest.

        Returns how many had to be cancelled; `abandoned` counts those that did not end even then.
        While this waits, `hurry` shortens the grace.
        """
        self._closing = True
        for job in (*self._unstarted(), *self._held):
            job.future.set_result(Release())
        self._held.clear()
        if self._running:
            self.hurry(grace)
            await asyncio.wait([job.future for job in self._running.values()])
        for timer in self._timers:
            timer.cancel()
        return len(self._cancelled)

    def hurry(self, grace: float) -> None:
        """Cancel what still runs in `grace` seconds."""
        self._timers.append(self._loop.call_later(grace, self._cancel))

    def _cancel(self) -> None:
        overdue = self._running.keys() - self._cancelled
        for task in overdue:
            task.cancel("the grace of the shutdown has passed")
        self._cancelled |= overdue
        if overdue:
            self._timers.append(self._loop.call_later(_DEAF, self._abandon, overdue))

    def _abandon(self, tasks: Iterable[asyncio.Task[Settlement]]) -> None:
        for task in tasks:
            job = self._running.get(task)
            if job is not None and not job.future.done():
                self.abandoned += 1
                job.future.set_result(Release())

    def _unstarted(self) -> list[_Job]:
        jobs = [*self._waiting, *(job for behind in self._behind.values() for job in behind)]
        self._waiting.clear()
        self._behind.clear()
        return jobs

    def _start(self, job: _Job) -> None:
        context = self._context.copy()
        task = self._loop.create_task(self._run(job), name=self._name, context=context)
        job.task = task
        self._running[task] = job
        task.add_done_callback(self._done)

    async def _run(self, job: _Job) -> Settlement:
        settlement = await job.work()
        # Most jobs end here, and not a turn of the loop later, in a callback.
        task = job.task
        if task is not None and not task.cancelling():
            task.remove_done_callback(self._done)
            del self._running[task]
            if not job.future.done():
                job.future.set_result(settlement)
            self._go_on(job)
        return settlement

    def _done(self, task: asyncio.Task[Settlement]) -> None:
        job = self._running.pop(task)
        # A job turns all that a handler raises into a settlement, so what is left is a cancellation
        # that it did not expect, or SystemExit on its way through the loop: it was not handled.
        ending = not task.cancelled() and task.exception() is not None
        if ending and not self._closing:
            self._held.append(job)  # released now, it would come again, and end the shutdown too
        elif not job.future.done():
            failed = ending or task.cancelled()
            job.future.set_result(Release() if failed else task.result())
        self._go_on(job)

    def _go_on(self, job: _Job) -> None:
        """Start what waited for this job to end."""
        if job.key is not None:
            behind = self._behind.get(job.key)
            if behind:
                self._waiting.append(behind.popleft())
            else:
                self._behind.pop(job.key, None)
        while self._waiting and len(self._running) < self._concurrency:
            self._start(self._waiting.popleft())
