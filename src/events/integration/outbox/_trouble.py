"""What is wrong with the database or the bus, while it is: logged once, waited for ever longer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from events.integration.pipeline.retry import describe
from events.integration.topology import RetryPolicy

__all__ = ["Trouble"]

logger = logging.getLogger("events.integration")

_BACKOFF = RetryPolicy(delay=0.1, factor=2.0, max_delay=5.0)


class Trouble:
    """The trouble that `who` has at this moment, if any."""

    def __init__(self, who: Callable[[], str]) -> None:
        self._who = who
        self._failures = 0
        self._logged: set[type[Exception]] = set()
        self.now: Exception | None = None

    @property
    def delay(self) -> float:
        """Return how many seconds to wait before the next attempt."""
        return _BACKOFF.delay_after(self._failures)

    def note(self, trouble: Exception | None) -> None:
        """Remember what is wrong, or that nothing is, and log it if that is news."""
        before, self.now = self.now, trouble
        if trouble is None:
            if before is not None:
                logger.info("%s goes on: %s is over", self._who(), type(before).__name__)
            self._failures = 0
            self._logged.clear()
        else:
            if type(trouble) not in self._logged:
                logger.warning("%s waits and tries again: %s", self._who(), describe(trouble))
            self._failures += 1
            self._logged.add(type(trouble))

    def progress(self) -> None:
        """Begin the waiting anew: something went well."""
        self._failures = 0

    async def insist(self, write: Callable[[], Awaitable[object]]) -> None:
        """Write until the database takes it."""
        while True:
            try:
                await write()
            except Exception as error:  # noqa: BLE001 - as the store raises what its library does
                self.note(error)
                await asyncio.sleep(self.delay)
            else:
                self._failures = 0
                return
