"""Starting and stopping, as a bus and a relay do: one at a time, and on a signal."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager
from types import TracebackType
from typing import Any


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
