"""Starting and stopping, as a bus and a relay do: one at a time, and on a signal."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, TypeVar

from events.errors import OutboxError

T = TypeVar("T")

_LONGEST = 5.0  # seconds that a call may take until its task is cancelled
_CLOSING = 30.0  # seconds that a driver may take to close what a cancelled call has used


class LifecycleLock:
    """An `asyncio.Lock` for what outlives an event loop, as a bus does that is used in several.

    A plain one belongs for good to the loop in which it was first waited for.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._lock = loop, asyncio.Lock()
        await self._lock.acquire()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()


@contextmanager
def calling(stop: Callable[[], object], *, on: Iterable[signal.Signals]) -> Generator[None]:
    """Call `stop` in the running loop whenever one of the signals comes, until the exit."""
    loop = asyncio.get_running_loop()
    signals = list(on)
    try:
        for number in signals:
            loop.add_signal_handler(number, stop)
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def failure_of(error: Exception | asyncio.CancelledError) -> Exception:
    """Return what is not the cancellation of the running task, which is raised, as an error.

    Drivers let out the cancellation of something else at times, as of a connection that was lost.
    """
    if isinstance(error, Exception):
        return error
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise error
    failure = OutboxError("bus or database gave up a call by cancelling it")
    failure.__cause__ = error
    return failure


class Background:
    """A task that makes its calls while it holds a lock, and is ended between two of them.

    To cancel a call to a database costs its connection. A call that takes long is cancelled though.
    """

    def __init__(
        self, run: Callable[[asyncio.Lock], Coroutine[Any, Any, None]], *, name: str | None = None
    ) -> None:
        self._calling = asyncio.Lock()
        self._task = asyncio.create_task(run(self._calling), name=name)

    async def end(self) -> None:
        """End the task, and return when it has ended. That of another loop ends with its loop."""
        if self._task.get_loop() is not asyncio.get_running_loop():
            return
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LONGEST):
                    await self._calling.acquire()
        finally:
            await ended(self._task)


async def ended(task: asyncio.Task[Any]) -> None:
    """Cancel a task, once, and return when it has ended.

    A second cancellation, as after a timeout of its own, breaks off the closing of the connection
    that the first one costs. On aiosqlite that never ends then, and the process does not either.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + _CLOSING
    while not task.done():
        if not task.cancelling() or loop.time() >= until:
            task.cancel()
        await asyncio.wait([task], timeout=0.1)


async def answered(answer: Awaitable[T], seconds: float | None) -> T:
    """Return what the database answers, and raise `OutboxError` if nothing comes for so long."""
    waiting = asyncio.timeout(seconds)
    try:
        async with waiting:
            return await answer
    except TimeoutError as error:
        if not waiting.expired():
            raise
        raise OutboxError(f"the database has not answered for {seconds:g} s") from error


async def first_of(*awaited: Coroutine[Any, Any, object]) -> None:
    """Return, or raise, as the first of these does; the others are cancelled and waited for."""
    tasks = [asyncio.create_task(each) for each in awaited]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in done:
        task.result()
