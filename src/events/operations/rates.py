"""Rates of each consumer in this process: handled events and failed attempts a second."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager

from msgspec import Struct

from events.integration.message import Delivery
from events.integration.observation import ObserverBeside, TraceMode


class Attempts(Struct, frozen=True):
    """Attempts of one consumer since the counting began."""

    handled: int = 0
    failed: int = 0


class Rates(ObserverBeside):
    """Count attempts within `async with rates:`, beside the observer that is there already.

    Two readings of `of`, and the seconds between them, give a rate.
    """

    def __init__(self) -> None:
        super().__init__()
        self._handled: defaultdict[str, int] = defaultdict(int)
        self._failed: defaultdict[str, int] = defaultdict(int)

    def of(self, consumer: str) -> Attempts:
        """Return the attempts of a consumer so far."""
        return Attempts(self._handled.get(consumer, 0), self._failed.get(consumer, 0))

    @contextmanager
    def processing(
        self, delivery: Delivery, system: str, trace: TraceMode, mask: Callable[[str], str]
    ) -> Generator[None]:
        """Count one attempt. One that is cancelled is neither handled nor failed."""
        del system, trace, mask
        try:
            yield
        except Exception:
            self._failed[delivery.consumer] += 1
            raise
        self._handled[delivery.consumer] += 1
