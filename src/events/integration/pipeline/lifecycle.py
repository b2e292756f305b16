"""Starting and stopping, as a bus and a relay do: one at a time, and on a signal."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, TypeVar, cast

from events.errors import OutboxError

T = TypeVar("T")

_CLOSING = 60.0  # seconds that a driver may take to close what a cancelled call has used


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

    To cancel a call to a database costs its connection. One that takes longer than `patience`
    seconds is cancelled though.
    """

    def __init__(
        self,
        run: Callable[[asyncio.Lock], Coroutine[Any, Any, None]],
        *,
        patience: float = 5.0,
        name: str | None = None,
    ) -> None:
        self._patience = patience
        self._calling = asyncio.Lock()
        self._task = asyncio.create_task(run(self._calling), name=name)
        self._ending: asyncio.Task[None] | None = None

    def stop(self) -> asyncio.Task[None]:
        """Begin to end the task; `end` waits for it."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())
        return self._ending

    async def end(self) -> None:
        """Return when the task has ended: at once, if this is cancelled.

        One of another event loop is let be, as it ends with its loop.
        """
        if self._task.get_loop() is not asyncio.get_running_loop():
            return
        ending = self.stop()
        try:
            await asyncio.wait([ending])
        except asyncio.CancelledError:
            ending.cancel()
            await asyncio.wait([ending])
            raise

    async def _end(self) -> None:
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience):
                    await self._calling.acquire()
        finally:
            await ended(self._task)


async def ended(task: asyncio.Task[Any]) -> None:
    """Cancel a task, and return when it has ended.

    It is not cancelled again, nor after a timeout of its own, see `answered`, as long as a driver
    may need to close the connection that a cancellation costs. A cancellation breaks that off, too,
    and on aiosqlite it never ends then, and the process does not either.
    """
    while not task.done():
        if not task.cancelling():
            task.cancel()
        loop = asyncio.get_running_loop()
        until = loop.time() + _CLOSING
        while not task.done() and task.cancelling() and loop.time() < until:
            await asyncio.wait([task], timeout=0.1)
        if not task.done() and task.cancelling():
            task.cancel()  # it has swallowed the first one


async def answered(answer: Awaitable[T], seconds: float | None) -> T:
    """Return what the database answers, and raise `OutboxError` if nothing comes for so long.

    Where the caller is cancelled already, the timeout does not cancel it again, see `ended`.
    """
    if seconds is None:
        return await answer
    task = cast("asyncio.Task[object]", asyncio.current_task())
    before, expired = task.cancelling(), False

    def give_up() -> None:
        nonlocal expired
        if task.cancelling() == before:
            expired = True
            task.cancel()

    timer = asyncio.get_running_loop().call_later(seconds, give_up)
    try:
        return await answer
    except asyncio.CancelledError as error:
        if not expired or task.cancelling() > before + 1:
            raise
        raise OutboxError(f"the database has not answered for {seconds:g} s") from error
    finally:
        timer.cancel()
        if expired:
            task.uncancel()


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
