"""Metrics of a relay: its lag and its throughput."""

from __future__ import annotations

import logging
import time
from collections import deque

logger = logging.getLogger("events.integration")

_WINDOW = 10.0  # seconds


class Metrics:
    """Counts sent rows, and warns once when rows have waited for longer than a limit."""

    def __init__(self, lag_warning: float) -> None:
        self._bound = lag_warning
        self._late = False
        self._sent: deque[tuple[float, int]] = deque()

    def lag(self, seconds: float) -> None:
        """Record how long the oldest row has waited."""
        if seconds > self._bound and not self._late:
            self._late = True
            logger.warning(
                "the outbox is %.0f s behind, over its limit of %.0f s: is the bus down, or are "
                "more relays needed?",
                seconds,
                self._bound,
            )
        elif seconds < self._bound / 2 and self._late:
            self._late = False
            logger.info("the outbox has caught up: it is %.1f s behind", seconds)

    def sent(self, rows: int) -> None:
        """Count rows that were just sent."""
        now = time.monotonic()
        self._sent.append((now, rows))
        while self._sent[0][0] < now - _WINDOW:
            self._sent.popleft()

    def rate(self) -> float:
        """Return rows per second over the last ten seconds."""
        now = time.monotonic()
        return sum(rows for at, rows in self._sent if at >= now - _WINDOW) / _WINDOW
