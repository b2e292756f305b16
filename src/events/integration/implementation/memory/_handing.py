"""Shared by the in-memory buses: deliver a message, and wait until all are handled."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import MappingProxyType
from typing import Generic, TypeVar

from msgspec.structs import replace

from events.errors import BusUnavailableError
from events.integration.message import Message, Settlement

D = TypeVar("D")


def hand_over(
    message: Message,
    publish: Callable[[Message], None],
    end: Callable[[asyncio.Future[None]], None] | None = None,
) -> asyncio.Future[None]:
    """Publish a message before this returns; the future lets others run.

    Who sends in a loop must not starve those who are to receive it. `end` may end it later.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    # A copy, read-only: the sender's dict is the sender's to change.
    headers = MappingProxyType(dict(message.headers))
    publish(replace(message, headers=headers))
    (end or end_soon)(done)
    return done


def end_soon(done: asyncio.Future[None]) -> None:
    """End what `hand_over` gave, when others had their turn."""
    asyncio.get_running_loop().call_soon(end_now, done)


def closed(transport: str) -> asyncio.Future[None]:
    """Return what `publish` gives where the transport is closed."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done.set_exception(BusUnavailableError(transport, "it is closed"))
    return done


def end_now(done: asyncio.Future[None]) -> None:
    """End it, unless it has ended."""
    if not done.done():
        done.set_result(None)


class Listening(ABC, Generic[D]):
    """The half of a `Subscribed` that ends: it waits for what was handed over."""

    def __init__(self) -> None:
        self._unsettled: dict[asyncio.Future[Settlement], D] = {}
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def last_poll(self) -> float:
        return asyncio.get_running_loop().time()

    @abstractmethod
    async def pause(self) -> None: ...

    async def close(self) -> None:
        await self.pause()
        while self._unsettled:
            await asyncio.wait(self._unsettled)
        if not self._closed.done():
            self._closed.set_result(None)

    async def wait_closed(self) -> None:
        await asyncio.shield(self._closed)
