"""Who is compared: ours, the bare drivers in their best form, and the peers.

A contestant sends and receives the same event on its broker, at a place of its own: a queue, a
stream, a channel. What it decodes is a dataclass, and it acknowledges each event once its handler
has returned, unless the place keeps nothing.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import ClassVar, TypeVar

import msgspec

from benchmarks.workload import Handle, Order, Send

PREFETCH = 100  # events in flight, and handlers at once

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Order).decode
"""How a bare driver's user would do it: the quickest that there is."""


T = TypeVar("T")


async def each(
    messages: Sequence[T], handle: Callable[[T], Coroutine[None, None, None]], *, at_once: bool
) -> None:
    """Handle a batch of a bare driver's: as ours does, each in a task, or one after the other."""
    if not at_once:
        for message in messages:
            await handle(message)
        return
    for start in range(0, len(messages), PREFETCH):
        async with asyncio.TaskGroup() as group:
            for message in messages[start : start + PREFETCH]:
                group.create_task(handle(message))


@asynccontextmanager
async def meanwhile(work: Coroutine[None, None, None]) -> AsyncGenerator[None]:
    """Run this beside the block; if it fails, so does the block."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        yield
        while not task.done():  # redis-py swallows a cancellation now and then
            task.cancel()
            await asyncio.wait([task], timeout=0.1)


class Contestant(ABC):
    """One way to send and receive on one broker."""

    name: ClassVar[str]
    event: ClassVar[type[Order]] = Order
    only: ClassVar[tuple[str, ...]] = ()  # the subjects in which it differs from another

    def takes_part(self, subject: str) -> bool:
        """Tell whether it is to be measured there."""
        return not self.only or subject in self.only

    async def prepare(self, place: str) -> None:  # noqa: B027 - not all have to
        """Make the place, so that it keeps what is sent."""

    @abstractmethod
    def publishing(self, place: str) -> AbstractAsyncContextManager[Send]:
        """Connect to send to the place."""

    def filling(self, place: str) -> AbstractAsyncContextManager[Send]:
        """Connect to fill the place quickly with what this contestant can receive."""
        return self.publishing(place)

    @abstractmethod
    def consuming(self, place: str, handle: Handle) -> AbstractAsyncContextManager[None]:
        """Receive from the place until the exit."""

    async def remove(self, place: str) -> None:  # noqa: B027 - not all have to
        """Remove the place and all that was made for it."""

    @asynccontextmanager
    async def at(self, place: str) -> AsyncGenerator[str]:
        """Have the place there within the block."""
        try:
            await self.prepare(place)
            yield place
        finally:
            await self.remove(place)
