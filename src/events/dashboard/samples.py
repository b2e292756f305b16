"""The data of the charts: each consumer's metrics of the last minutes, kept in this process.

Sampling begins with the first request of a page, and ends when there was none for a while, so an
unused dashboard costs nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque

from msgspec import Struct

from events.errors import (
    BusNotStartedError,
    BusUnavailableError,
    UnsupportedByBusError,
)
from events.integration.health import Backlog
from events.integration.implementation.base import TransportIntegrationEventBus
from events.operations import Rates, backlogs
from events.operations.rates import Attempts

logger = logging.getLogger("events.dashboard")

_MOST = 180
_NEW = 2.0  # seconds for which a sample is new enough to be shown


class Sample(Struct, frozen=True):
    """The metrics of a consumer at one time.

    `backlog` is None if the broker was out of reach, `attempts` if they are not counted.
    """

    at: float
    backlog: Backlog | None
    attempts: Attempts | None


class Samples:
    """Reads the backlogs regularly, as long as pages are requested."""

    def __init__(
        self,
        bus: TransportIntegrationEventBus,
        rates: Rates | None,
        *,
        every: float = 5.0,
        idle: float = 600.0,
    ) -> None:
        self._bus = bus
        self._rates = rates
        self._every = every
        self._idle = idle
        self._held: dict[str, deque[Sample]] = {}
        self._looked = 0.0
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._last = 0.0
        self.problem: str | None = None

    def of(self, consumer: str) -> list[Sample]:
        """Return the samples of a consumer, the oldest first."""
        return list(self._held.get(consumer, ()))

    async def look(self) -> None:
        """Ensure a new sample of each consumer, and continue sampling for a while."""
        self._looked = time.monotonic()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="events.dashboard samples")
        await self._take()

    async def _run(self) -> None:
        while time.monotonic() - self._looked < self._idle:
            await asyncio.sleep(self._every)
            await self._take()

    async def _take(self) -> None:
        async with self._turn:
            if time.monotonic() - self._last < min(_NEW, self._every):
                return
            names = [each.consumer.name for each in self._bus.registrations]
            found: dict[str, Backlog | None] = dict.fromkeys(names)
            try:
                found |= {each.consumer: each.backlog for each in await backlogs(self._bus)}
                self.problem = None
            except UnsupportedByBusError as error:
                self.problem, found = str(error), {}
            except (BusUnavailableError, BusNotStartedError) as error:
                self.problem = str(error)
            except Exception as error:  # a bus of the user's may raise anything
                self.problem = f"{type(error).__name__}: {error}".splitlines()[0]
                logger.exception("the dashboard cannot read the backlogs")
            self._last = time.monotonic()
            for name, backlog in found.items():
                held = self._held.setdefault(name, deque(maxlen=_MOST))
                attempts = None if self._rates is None else self._rates.of(name)
                held.append(Sample(self._last, backlog, attempts))
            for name in self._held.keys() - set(names):
                del self._held[name]
