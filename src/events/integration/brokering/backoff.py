"""Pauses between attempts at what does not succeed yet."""

from __future__ import annotations

import asyncio
import random


class Backoff:
    """Pause between attempts: each time twice as long, up to `longest` seconds, with jitter.

    The jitter takes away up to half of each pause, so that processes that failed together do not
    try again together ("equal jitter").
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first = self._next = first
        self._longest = longest

    @property
    def has_begun(self) -> bool:
        """Return whether there was a pause since the last success."""
        return self._next != self._first

    def take(self) -> float:
        """Return the next pause in seconds; the one after it is longer."""
        pause, self._next = self._next, min(2 * self._next, self._longest)
        return pause * random.uniform(0.5, 1)  # noqa: S311 - no secret

    async def pause(self) -> None:
        """Wait for the next pause."""
        await asyncio.sleep(self.take())

    def reset(self) -> None:
        """Begin with the first pause again, after a success."""
        self._next = self._first
