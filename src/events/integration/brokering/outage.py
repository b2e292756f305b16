"""What the log says while a broker is out of reach.

    up --begin--> down --begin, for another reason--> down --end--> up
         warning               warning, with the reason       warning, with the duration

Each outage gives one line at its beginning and one at its end, and one for each new reason between
the two: a wrong password after a restart is not the restart. A connection that comes up and goes
down again and again floods no log: of one reason, at most `MOST_LINES` outages in `QUIET` seconds
give lines, the others are counted, and the next line that is logged tells how many there were.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Hashable

__all__ = ["MOST_LINES", "QUIET", "Outage"]

logger = logging.getLogger("events.integration")

MOST_LINES, QUIET = 3, 60.0
"""How many outages of one reason give lines within so many seconds."""

_MOST_REASONS = 32  # that are remembered; a reason may hold a number that is never the same


class Outage:
    """The outages of one bus: what is down, since when and why, and the lines of log about it.

    `name` is what the bus logs as. What is down is named by any hashable, such as each of several
    connections: the bus is up when none is down. `clock` returns seconds.
    """

    def __init__(
        self,
        name: str,
        *,
        level: int = logging.WARNING,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.reason: str | None = None
        self._level = level
        self._clock = clock
        self._down: set[Hashable] = set()
        self._began = 0.0
        self._logged: dict[str, deque[float]] = {}  # when each reason was logged
        self._has_line = False  # whether the log speaks of this outage
        self._unlogged = 0

    @property
    def is_over(self) -> bool:
        """Tell whether nothing is down."""
        return not self._down

    def begin(self, who: Hashable, reason: str) -> None:
        """Note that this is down, or still down, and why."""
        if not self._down:
            self._began = self._clock()
            self._has_line = False
        self._down.add(who)
        if reason == self.reason and self._has_line:
            return
        self.reason = reason
        if self._is_quiet(reason):
            self._unlogged += not self._has_line
            return
        verb = "is still not connected" if self._has_line else "lost its connection"
        self._has_line = True
        logger.log(
            self._level, "%s %s: %s; reconnecting%s", self.name, verb, reason, self._before()
        )

    def end(self, who: Hashable, *, closed: bool = False) -> None:
        """Note that this is up again, or `closed` while it was down."""
        if who not in self._down:
            return
        self._down.discard(who)
        if self._down:
            return
        self.reason = None
        if self._has_line and not closed:
            took = self._clock() - self._began
            logger.log(self._level, "%s is connected again after %.1f s", self.name, took)

    def _is_quiet(self, reason: str) -> bool:
        now = self._clock()
        times = self._logged.pop(reason, None) or deque(maxlen=MOST_LINES)
        self._logged[reason] = times  # the last one
        while len(self._logged) > _MOST_REASONS:
            del self._logged[next(iter(self._logged))]
        if len(times) == MOST_LINES and now - times[0] < QUIET:
            return True
        times.append(now)
        return False

    def _before(self) -> str:
        count, self._unlogged = self._unlogged, 0
        return f" ({count} shorter outages since the last line)" if count else ""
