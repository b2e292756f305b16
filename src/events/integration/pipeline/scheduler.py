"""Runs deliveries as jobs: at most `concurrency` at once, and in order for each key.

A job is in one of three states:

    waiting --> running --> settled          at most `concurrency` are running
    behind its key ----^                     while an earlier one of its key is waiting or running

Jobs enter in order of arrival, so with a concurrency of 1 all jobs run in that order. Each job has
its own task and so its own context: the next handler does not see what one handler binds there, as
loggers do. On closing, jobs that have not started are released, and running jobs may end. Jobs that
exceed the grace period are cancelled. Jobs that still run after that are abandoned: they are
released, and closing does not wait for them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Iterable
from contextvars import copy_context
from typing import Any, TypeAlias

from msgspec import Struct

from events.integration.message import Release, Settlement

_CANCEL_TIMEOUT = 5.0  # seconds that a cancelled job has to end

Work: TypeAlias = Callable[..., Coroutine[Any, Any, Settlement]]


class _Job(Struct, eq=False):
    work: Work
    args: tuple[Any, ...]
    key: Hashable | None
    future: asyncio.Future[Settlement]
    task: asyncio.Task[Settlement] | None = None  # while it runs


class DeliveryScheduler:
    """Run the jobs of one registration, in tasks with its `name`.

    It is made in the event loop in which it runs the jobs.
    """

    def __init__(self, concurrency: int, name: str = "handler") -> None:
        self._concurrency = concurrency
        self._name = name
        self._loop = asyncio.get_running_loop()
        # The context of the code that registers: a job must not inherit that of the code that
        # delivers, which on an in-process bus is the sender's handler.
        self._context = copy_context()
        self._running: dict[asyncio.Task[Settlement], _Job] = {}
        self._waiting: deque[_Job] = deque()
        self._behind: dict[Hashable, deque[_Job]] = {}
        self._closing = False
        self._cancelled: set[asyncio.Task[Settlement]] = set()
        self._timers: list[asyncio.TimerHandle] = []
        self._held_back: list[_Job] = []
        self.abandoned = 0

    def submit(
        self, work: Work, key: Hashable | None = None, *args: Any
    ) -> asyncio.Future[Settlement]:
        """Run `work` with `args` when its turn comes; the future gets a settlement, never an error.

        Jobs of one key run in order; jobs without a key have none. After `close`, new jobs are
        released.
        """
        job = _Job(work, args, key, self._loop.create_future())
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
        """Return whether the task is a job of this scheduler."""
        return task in self._running

    def has_cancelled(self, task: asyncio.Task[Any] | None) -> bool:
        """Return whether the task is a job that was cancelled after its grace period."""
        return task in self._cancelled

    async def close(self, grace: float) -> int:
        """Release waiting jobs, wait for running jobs for `grace` seconds, then cancel the rest.

        Returns how many were cancelled; `abandoned` counts those that did not end after that.
        `hurry` shortens the grace meanwhile.
        """
        self._closing = True
        for job in (*self._unstarted(), *self._held_back):
            job.future.set_result(Release())
        self._held_back.clear()
        if self._running:
            self.hurry(grace)
            await asyncio.wait([job.future for job in self._running.values()])
        for timer in self._timers:
            timer.cancel()
        return len(self._cancelled)

    def hurry(self, grace: float) -> None:
        """Cancel jobs that still run after `grace` seconds."""
        self._timers.append(self._loop.call_later(grace, self._cancel))

    def _cancel(self) -> None:
        overdue = self._running.keys() - self._cancelled
        for task in overdue:
            task.cancel("the grace of the shutdown has passed")
        self._cancelled |= overdue
        if overdue:
            self._timers.append(self._loop.call_later(_CANCEL_TIMEOUT, self._abandon, overdue))

    def _abandon(self, tasks: Iterable[asyncio.Task[Settlement]]) -> None:
        for task in tasks:
            job = self._running.get(task)
            # One that has ended is settled by its callback, in the loop's next turn.
            if job is not None and not (task.done() or job.future.done()):
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
        settlement = await job.work(*job.args)
        # Most jobs end here, instead of one turn of the loop later in a callback.
        task = job.task
        if task is not None and not task.cancelling():
            task.remove_done_callback(self._done)
            del self._running[task]
            if not job.future.done():
                job.future.set_result(settlement)
            if self._waiting or job.key is not None:
                self._go_on(job)
        return settlement

    def _done(self, task: asyncio.Task[Settlement]) -> None:
        job = self._running.pop(task)
        # A job turns all exceptions of a handler into a settlement. So this is an unexpected
        # cancellation, or a SystemExit that propagates: the event was not handled.
        ending = not task.cancelled() and task.exception() is not None
        if ending and not self._closing:
            # If it were released now, its redelivery would end the shutdown too.
            self._held_back.append(job)
        elif not job.future.done():
            failed = ending or task.cancelled()
            job.future.set_result(Release() if failed else task.result())
        self._go_on(job)

    def _go_on(self, job: _Job) -> None:
        """Start the jobs that waited for this job to end."""
        if job.key is not None:
            behind = self._behind.get(job.key)
            if behind:
                self._waiting.append(behind.popleft())
            else:
                self._behind.pop(job.key, None)
        while self._waiting and len(self._running) < self._concurrency:
            self._start(self._waiting.popleft())
