"""What makes `startup`, `shutdown` and their like wait for one another."""

from __future__ import annotations

import asyncio
from types import TracebackType

__all__ = ["LifecycleLock"]


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
