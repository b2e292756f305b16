"""How much one socket may ask, and how many there may be."""

from collections.abc import Generator
from contextlib import contextmanager


class Bucket:
    """So many at once, so many a second after that. Times are in seconds, of any one clock."""

    def __init__(self, burst: int, rate: float, now: float) -> None:
        self._burst = burst
        self._rate = rate
        self._left = float(burst)
        self._at = now

    def take(self, now: float) -> float:
        """Take one and return 0, or return in how many seconds there will be one."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return (1 - self._left) / self._rate
        self._left -= 1
        return 0.0


class Doors:
    """Count those who are inside."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0

    @contextmanager
    def entering(self) -> Generator[bool]:
        """Tell whether there is room, and keep the place until the block ends."""
        if self._inside >= self._limit:
            yield False
            return
        self._inside += 1
        try:
            yield True
        finally:
            self._inside -= 1
