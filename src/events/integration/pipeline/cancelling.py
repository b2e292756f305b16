"""Calls to a database, and what cancels them: a timeout, or the end of the task that makes them.

A call that is cancelled costs its connection, which the driver closes first. A second cancellation
breaks that off, and on aiosqlite neither the close nor the process ever ends then. So a task is
ended between two calls where that is possible, and cancelled once where it is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar, cast

from events.errors import OutboxError

T = TypeVar("T")

_LONGEST = 5.0  # seconds that a call may take until a stop cancels it
_CLOSING = 60.0  # seconds that a driver may take to close the connection of a cancelled call
_LOOK = 0.1  # seconds


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


async def answered(answer: Awaitable[T], seconds: float | None) -> T:
    """Return what the database answers, and raise `OutboxError` if nothing comes for so long.

    Unlike `asyncio.timeout`, it does not cancel a task that somebody has cancelled meanwhile.
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


async def ended(task: asyncio.Task[Any]) -> None:
    """Cancel a task, and return when it has ended.

    While a cancellation is under way, be it this one or that of a timeout of the task's own, the
    task is not cancelled again. One that has swallowed it is, after a minute.
    """
    loop = asyncio.get_running_loop()
    again_at = loop.time() + _CLOSING
    while not task.done():
        if not task.cancelling() or loop.time() >= again_at:
            task.cancel()
            again_at = loop.time() + _CLOSING
        await asyncio.wait([task], timeout=_LOOK)


class Background:
    """A task that makes its calls while it holds a lock, and is ended between two of them.

    A call that takes long is cancelled though.
    """

    def __init__(
        self, run: Callable[[asyncio.Lock], Coroutine[Any, Any, None]], *, name: str | None = None
    ) -> None:
        self._calling = asyncio.Lock()
        self._task = asyncio.create_task(run(self._calling), name=name)
        self._ending: asyncio.Task[None] | None = None

    def stop(self) -> asyncio.Task[None]:
        """Begin to end the task; `end` waits for it."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())
        return self._ending

    async def end(self) -> None:
        """Return when the task has ended. If this is cancelled, the running call is cancelled too.

        A task of another event loop ends with its loop, and is not waited for.
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
                async with asyncio.timeout(_LONGEST):
                    await self._calling.acquire()
        finally:
            await ended(self._task)
