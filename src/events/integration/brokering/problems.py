"""What is wrong at this moment: one line in the log for each change, and a text for `health()`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

__all__ = ["Problems"]

logger = logging.getLogger("events.integration")

_QUIET = 60.0  # seconds for which a reason that was logged is not logged again
_REMEMBERED = 100  # reasons that were logged


class Problems:
    """Keep the problems of one thing, each under a key, until they are cleared.

    A problem is logged when it begins and when its reason changes, and the end of it when it is
    cleared. Reasons that alternate are logged once a minute each, however often they change.
    """

    def __init__(self, name: str, clock: Callable[[], float] = monotonic) -> None:
        self._name = name
        self._clock = clock
        self._now: dict[str, str] = {}
        self._loud: set[str] = set()  # keys of problems whose end is logged, too
        self._logged: dict[tuple[str, str], float] = {}

    def __bool__(self) -> bool:
        return bool(self._now)

    def __contains__(self, key: str) -> bool:
        return key in self._now

    @property
    def text(self) -> str | None:
        """Return all reasons there are; None if nothing is wrong."""
        return "; ".join(self._now.values()) or None

    def report(self, key: str, reason: str, level: int = logging.ERROR) -> None:
        """Note that this is wrong, for this reason."""
        if self._now.get(key) == reason:
            return
        self._now[key] = reason
        now = self._clock()
        last = self._logged.pop((key, reason), None)
        if last is not None and now - last < _QUIET:
            self._logged[key, reason] = last
            self._loud.discard(key)
            return
        self._logged[key, reason] = now
        if len(self._logged) > _REMEMBERED:
            del self._logged[next(iter(self._logged))]
        self._loud.add(key)
        logger.log(level, "%s: %s", self._name, reason)

    def clear(self, key: str) -> None:
        """Note that this is well again."""
        reason = self._now.pop(key, None)
        if key in self._loud:
            self._loud.discard(key)
            logger.info("%s: this is over: %s", self._name, reason)

    def clear_all(self) -> None:
        """Note that all is well again."""
        for key in tuple(self._now):
            self.clear(key)
