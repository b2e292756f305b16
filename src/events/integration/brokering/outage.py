"""Lost connections in the log: a line for the loss, for each new reason, and for the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable

__all__ = ["STABLE", "Outage"]

logger = logging.getLogger("events.integration")

STABLE = 10.0  # seconds without a loss, and what comes then is an outage of its own
_REASONS = 100  # that are remembered


class Outage:
    """The outages of one bus, in the log of `events.integration`.

    Its members, the connections of the bus, are mostly lost together: the first that is lost
    begins the outage, and the last that comes back ends it. One that comes back and is lost again
    at once, for a reason that was given, is not news; its end is, once it lasts.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._reasons: dict[Hashable, str] = {}  # of each member that is down
        self._given: set[str] = set()
        self._began = 0.0
        self._flaps = False
        self._lasting: asyncio.TimerHandle | None = None

    @property
    def reason(self) -> str | None:
        """Return why something is down, as it was last heard; None if nothing is."""
        return next(iter(self._reasons.values()), None)

    def because(self, member: Hashable, reason: str) -> None:
        """Have this member down, or still down, for this reason."""
        begins = not self._reasons
        self._reasons[member] = reason
        if begins:
            self._flaps = self._lasting is not None
            if self._lasting is not None:
                self._lasting.cancel()
                self._lasting = None
            else:
                self._began = asyncio.get_running_loop().time()
                self._given.clear()
        if reason in self._given or len(self._given) >= _REASONS:
            return
        if begins:
            logger.warning("%s lost its connection: %s; reconnecting", self.name, reason)
        else:
            logger.warning("%s is not connected yet: %s", self.name, reason)
        self._given.add(reason)

    def over(self, member: Hashable) -> None:
        """Have this member up again."""
        if self._reasons.pop(member, None) is None or self._reasons:
            return
        loop = asyncio.get_running_loop()
        if not self._flaps:
            self._say_that_it_is_over(loop.time())
        self._lasting = loop.call_later(STABLE, self._lasts, loop.time())

    def leave(self, member: Hashable) -> None:
        """Forget this member, as nobody wants it up any more."""
        self._reasons.pop(member, None)
        if not self._reasons and self._lasting is not None:
            self._lasting.cancel()
            self._lasting = None

    def _lasts(self, since: float) -> None:
        self._lasting = None
        if self._flaps:
            self._say_that_it_is_over(since)

    def _say_that_it_is_over(self, now: float) -> None:
        logger.warning("%s is connected again after %.1f s", self.name, now - self._began)
