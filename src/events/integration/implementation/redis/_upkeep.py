"""What a consumer does now and then, besides reading: every few seconds, or when something is due.

Renew what is in hand, put retries that are due back into the stream, take over from the dead, and
tidy up: consumer ids that died with nothing in hand, entries that no group needs any more. Each
process of a consumer name does so for all of them, and the server keeps them out of each other's
way. None of it is urgent: what fails is done at the next look.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

from events.integration.implementation.redis._connecting import DisconnectedError, ReplyError
from events.integration.implementation.redis._entries import Keys
from events.integration.implementation.redis._link import Link
from events.integration.implementation.redis._scripts import RENEW, RIPEN, SWEEP, TRIM

__all__ = ["GONE", "Upkeep"]

logger = logging.getLogger("events.integration")

GONE = frozenset({"NOGROUP", "UNBLOCKED"})
"""What the server says when a stream or a group is not there any more."""

_TICK = 5.0  # seconds between looks at what others have left behind, at most a third of the lease
_RIPEN_AT_ONCE = 100
_RENEWED_AT_ONCE = 1_000
_TRIMMED_EVERY, _SWEPT_EVERY = 3, 10  # looks
_SILENCE = 20.0  # seconds, beyond every blocking read, after which an empty consumer id is dead


class _Consumer(Protocol):
    name: str
    keys: Keys
    me: str

    @property
    def held(self) -> Iterable[tuple[str, bytes]]: ...

    async def claim(self) -> None: ...

    async def make_again(self) -> None: ...


class Upkeep:
    """Look after one consumer's part of its group."""

    def __init__(self, link: Link, consumer: _Consumer, *, lease: float, retention: float) -> None:
        self._link = link
        self._consumer = consumer
        self._lease = lease
        self._retention = retention
        self._nudge = asyncio.Event()
        self._due: float | None = None
        self._claims = True
        self._tidied = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Begin; the task ends by `stop` alone, or by a mistake of ours."""
        self._task = asyncio.create_task(self._keep(), name=f"{self._consumer.name} keeps")
        return self._task

    async def stop(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def expect(self, seconds: float) -> None:
        """Look for due retries in so many seconds, at the latest."""
        due = asyncio.get_running_loop().time() + seconds + 0.003
        if self._due is None or due < self._due:
            self._due = due
            self._nudge.set()

    def claim_soon(self) -> None:
        """Look for what others have left behind."""
        self._claims = True
        self._nudge.set()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        tick = min(self._lease / 3, _TICK)
        next_tick = loop.time()
        troubled = False
        while True:
            wake = next_tick if self._due is None else min(next_tick, self._due)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(wake):
                    await self._nudge.wait()
            self._nudge.clear()
            now = loop.time()
            ticks = now >= next_tick
            if ticks:
                next_tick = now + tick
            try:
                await self._look_after(ticks=ticks)
                troubled = False
            except ReplyError as error:
                if error.code in GONE:
                    await self._consumer.make_again()
                elif not troubled:
                    logger.error("%s cannot keep its lease: %s", self._consumer.name, error)  # noqa: TRY400
                    troubled = True
            except DisconnectedError:
                await self._link.up.wait()

    async def _look_after(self, *, ticks: bool) -> None:
        if ticks:
            await self._renew()
        if ticks or (self._due is not None and self._due <= asyncio.get_running_loop().time()):
            await self._ripen()
        if ticks or self._claims:
            self._claims = False
            await self._consumer.claim()
        if ticks:
            await self._tidy()

    async def _renew(self) -> None:
        consumer = self._consumer
        for stream in consumer.keys.streams:
            held = [number for name, number in consumer.held if name == stream]
            for start in range(0, len(held), _RENEWED_AT_ONCE):
                ids = held[start : start + _RENEWED_AT_ONCE]
                args = consumer.keys.group, consumer.me, *ids
                for lost in await self._link.run_script(RENEW, [stream], *args):
                    # Settled meanwhile, or taken over: a handler that still runs is let be.
                    logger.debug("%s holds %s no longer", consumer.name, lost)

    async def _ripen(self) -> None:
        keys = self._consumer.keys
        self._due = None
        places = [keys.due, keys.later, keys.again]
        wait = await self._link.run_script(RIPEN, places, _RIPEN_AT_ONCE)
        if wait >= 0:
            self.expect(wait / 1000)

    async def _tidy(self) -> None:
        keys = self._consumer.keys
        if self._tidied % _SWEPT_EVERY == 0:
            silence = int(max(3 * self._lease, _SILENCE) * 1000)
            for stream in keys.streams:
                await self._link.run_script(SWEEP, [stream], keys.group, silence)
        if self._tidied % _TRIMMED_EVERY == 0:
            await self._link.run_script(TRIM, [keys.topic], int(self._retention * 1000))
        self._tidied += 1
