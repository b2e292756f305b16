"""An outage of the database or the bus: logged once, with growing pauses between retries."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable

from events.integration.pipeline.cancelling import answered, failure_of
from events.integration.pipeline.retry import describe
from events.integration.topology import RetryPolicy

logger = logging.getLogger("events.integration")

_BACKOFF = RetryPolicy(delay=0.1, factor=2.0, max_delay=5.0)


class Outage:
    """The outage that `who` has at this moment, if any.

    `timeout` is how many seconds a write may take.
    """

    def __init__(self, who: str, timeout: float | None = None) -> None:
        self._who = who
        self._timeout = timeout
        self._failures = 0
        self._logged: set[type[Exception]] = set()
        self.now: Exception | None = None

    @property
    def delay(self) -> float:
        """Return how many seconds to wait before the next attempt."""
        return _BACKOFF.delay_after(self._failures)

    def note(self, outage: Exception | None) -> None:
        """Remember what is wrong, or that nothing is, and log it if that is news."""
        before, self.now = self.now, outage
        if outage is None:
            if before is not None:
                logger.info("%s continues: %s is over", self._who, type(before).__name__)
            self._failures = 0
            self._logged.clear()
        else:
            if type(outage) not in self._logged:
                logger.warning("%s waits and tries again: %s", self._who, describe(outage))
            self._failures += 1
            self._logged.add(type(outage))

    async def insist(
        self,
        write: Callable[[], Awaitable[object]],
        *,
        while_: Callable[[], bool] | None = None,
        tries: float = math.inf,
    ) -> bool:
        """Write until the database takes it, or `while_` does not hold: tell whether it has.

        What was written is progress: a bus that takes some rows is not waited for ever longer.
        After so many `tries` it raises what the last one raised.
        """
        while while_ is None or while_():
            try:
                await answered(write(), self._timeout)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - as the store raises
                failure = failure_of(error)  # what its library does
            else:
                self._failures = 0
                return True
            tries -= 1
            if tries <= 0:
                raise failure
            self.note(failure)
            await asyncio.sleep(self.delay)
        return False
