"""Current problems: a log line for each change, and a text for `health()`.

    well --report--> wrong --report, another reason--> wrong --clear--> well
            a line                 a line                     a line

`Problems` are those of one thing, each under a key. An `Outage` is that of a connection, or of
several to one broker. What comes and goes again and again floods no log: of one reason, at most
`MOST_LINES` in `QUIET` seconds are logged.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Hashable

logger = logging.getLogger("events.integration")

MOST_LINES, QUIET = 3, 60.0
"""How many lines one reason may log within how many seconds."""

_MOST_REASONS = 100  # that are remembered; a reason may hold a number that is never the same


class _Limit:
    """How often each reason was logged."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._logged: dict[Hashable, deque[float]] = {}  # the last one is the newest

    def __len__(self) -> int:
        return len(self._logged)

    def take(self, reason: Hashable) -> bool:
        """Return whether this reason may be logged now, and count it."""
        now = self._clock()
        times = self._logged.pop(reason, None) or deque(maxlen=MOST_LINES)
        self._logged[reason] = times
        if len(self._logged) > _MOST_REASONS:
            del self._logged[next(iter(self._logged))]
        if len(times) == MOST_LINES and now - times[0] < QUIET:
            return False
        times.append(now)
        return True


class Problems:
    """Keep the problems of one thing, each under a key, until they are cleared.

    A problem is logged when it begins and when its reason changes, and its end when it is cleared.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._limit = _Limit(clock)
        self.reasons: dict[str, str] = {}  # by their keys; it is empty while all is well
        self._loud: set[str] = set()  # keys of problems whose end is logged, too

    def __bool__(self) -> bool:
        return bool(self.reasons)

    def __contains__(self, key: str) -> bool:
        return key in self.reasons

    @property
    def text(self) -> str | None:
        """Return all reasons there are; None if nothing is wrong."""
        return "; ".join(self.reasons.values()) or None

    def report(self, key: str, reason: str, level: int = logging.ERROR) -> None:
        """Note that this is wrong, for this reason."""
        if self.reasons.get(key) == reason:
            return
        self.reasons[key] = reason
        if self._limit.take((key, reason)):
            self._loud.add(key)
            logger.log(level, "%s: %s", self.name, reason)
        else:
            self._loud.discard(key)

    def clear(self, key: str) -> None:
        """Note that this is well again."""
        reason = self.reasons.pop(key, None)
        if key in self._loud:
            self._loud.discard(key)
            logger.info("%s: this is over: %s", self.name, reason)


class Outage:
    """The outages of one bus: what is down, since when and why, and the lines of log about it.

    `name` is what the bus logs as. What is down is named by any hashable, such as each of several
    connections, which are mostly lost together: the bus is up when none is down, and that is one
    line. `clock` returns seconds.
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
        self._limit = _Limit(clock)
        self._down: set[Hashable] = set()
        self._began = 0.0
        self._has_line = False  # whether the log speaks of this outage
        self._unlogged = 0  # outages since the last line

    @property
    def is_over(self) -> bool:
        """Return whether nothing is down."""
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
        if not self._limit.take(reason):
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

    def _before(self) -> str:
        count, self._unlogged = self._unlogged, 0
        return f" ({count} shorter outages since the last line)" if count else ""
