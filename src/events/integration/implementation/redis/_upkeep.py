"""The periodic work of a consumer beside reading: every few seconds, or when something is due.

Renew what is in flight, tidy up (entries that no group needs any more, consumer ids that died with
nothing in flight), put retries that are due back into the stream, take over from processes that
died. Each process of a consumer name does so for all of them, and the server keeps them out of each
other's way. None of it is urgent: what fails is done at the next look. A step that fails keeps no
other from its turn: a full server refuses what writes, and trimming is what makes room.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Protocol

from events.integration.brokering.problems import Problems
from events.integration.implementation.redis._connecting import DisconnectedError, ReplyError
from events.integration.implementation.redis._entries import Keys
from events.integration.implementation.redis._groups import Groups
from events.integration.implementation.redis._link import Link
from events.integration.implementation.redis._scripts import PROMOTE, RENEW, SWEEP, TRIM

logger = logging.getLogger("events.integration")

GONE = frozenset({"NOGROUP", "UNBLOCKED"})
"""The server's error when a stream or a group no longer exists."""

_TICK = 5.0  # seconds between looks at what others have left behind, at most a third of the lease
_PROMOTED_AT_ONCE = 100
_RENEWED_AT_ONCE = 1_000
_REMOVED_AT_ONCE = 5_000
_TRIMMED_EVERY, _SWEPT_EVERY = 3, 10  # looks
_SILENCE = 20.0  # seconds, beyond every blocking read, after which an empty consumer id is dead


class _Consumer(Protocol):
    name: str
    keys: Keys
    me: str

    @property
    def lacks_room(self) -> bool: ...

    @property
    def in_flight(self) -> Iterable[tuple[str, bytes]]: ...

    async def claim(self) -> None: ...


class Upkeep:
    """Look after one consumer's part of its group."""

    def __init__(
        self,
        link: Link,
        consumer: _Consumer,
        groups: Groups,
        problems: Problems,
        *,
        lease: float,
        retention: float,
    ) -> None:
        self._link = link
        self._consumer = consumer
        self._groups = groups
        self._problems = problems
        self._lease = lease
        self._retention = retention
        self._nudge = asyncio.Event()
        self._due: float | None = None
        self._claims = True
        self._ticks = 0

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

    async def run(self) -> None:
        """Do so until it is cancelled."""
        loop = asyncio.get_running_loop()
        tick = min(self._lease / 3, _TICK)
        next_tick = loop.time()
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
            for step in self._steps(ticks=ticks):
                await self._take(step)

    def _steps(self, *, ticks: bool) -> Iterable[Callable[[], Awaitable[object]]]:
        """Yield what is to be done now."""
        if ticks:
            yield self._renew
            self._ticks += 1
            if self._ticks % _TRIMMED_EVERY == 1 or self._consumer.lacks_room:
                yield self._trim
            if self._ticks % _SWEPT_EVERY == 1:
                yield self._sweep
                yield self._groups.declare
        if ticks or (self._due is not None and self._due <= asyncio.get_running_loop().time()):
            yield self._promote
        if ticks or self._claims:
            self._claims = False
            yield self._consumer.claim

    async def _take(self, step: Callable[[], Awaitable[object]]) -> None:
        problem = step.__name__
        try:
            await step()
        except ReplyError as error:
            if error.code in GONE:
                await self._groups.make_again()
            elif error.code != "READONLY":  # of which the link says all there is
                doing = problem.removeprefix("_")
                self._problems.report(problem, f"it cannot {doing} in its group: {error}")
        except DisconnectedError:
            await self._link.wait_up()
        else:
            self._problems.clear(problem)

    async def _renew(self) -> None:
        consumer = self._consumer
        for stream in consumer.keys.streams:
            ids = [number for name, number in consumer.in_flight if name == stream]
            for start in range(0, len(ids), _RENEWED_AT_ONCE):
                some = ids[start : start + _RENEWED_AT_ONCE]
                args = consumer.keys.group, consumer.me, *some
                for lost in await self._link.run_script(RENEW, [stream], *args):
                    # Settled meanwhile, or taken over: a handler that still runs is let be.
                    logger.debug("%s no longer holds %s", consumer.name, lost)

    async def _promote(self) -> None:
        keys = self._consumer.keys
        self._due = None
        places = [keys.due, keys.later, keys.again]
        wait = await self._link.run_script(PROMOTE, places, _PROMOTED_AT_ONCE)
        if wait >= 0:
            self.expect(wait / 1000)

    async def _trim(self) -> None:
        topic = self._consumer.keys.topic
        one_by_one = _REMOVED_AT_ONCE if self._consumer.lacks_room else 0
        await self._link.run_script(TRIM, [topic], int(self._retention * 1000), one_by_one)

    async def _sweep(self) -> None:
        keys = self._consumer.keys
        silence = int(max(3 * self._lease, _SILENCE) * 1000)
        for stream in keys.streams:
            await self._link.run_script(SWEEP, [stream], keys.group, silence)
