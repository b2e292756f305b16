"""Retry policies: how often, and after what delay, a failed event is handled again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import cast

from events.errors import InvalidTopologyError

_GROWTHS = 64  # attempts after which a delay does not grow
_LONGEST = 366 * 86_400.0  # seconds; some brokers and databases hold no longer delay


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Retry with exponential backoff and jitter. Times are in seconds.

    `attempts` includes the first one. The delay after attempt n is `delay * factor ** (n - 1)`, at
    most `max_delay` (itself at most a year), varied by the share `jitter`, so that consumers that
    failed together do not retry together. A delay of at most `in_place` blocks the consumer's slot
    in this process, which keeps the order. A longer delay goes through the broker, so a crash loses
    nothing, and later events are handled meanwhile. An exception of a class in `dead_letter_on`, or
    a group of only such exceptions, is not retried.

    The defaults make eight attempts over about nine minutes. `RetryPolicy(attempts=1)` never
    retries.
    """

    attempts: int = 8
    delay: float = 0.5
    factor: float = 3.0
    max_delay: float = 600.0
    jitter: float = 0.1
    in_place: float = 1.0
    dead_letter_on: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        for name in ("attempts", "delay", "factor", "max_delay", "jitter", "in_place"):
            given: object = getattr(self, name)
            if isinstance(given, bool) or not isinstance(given, int | float):
                raise InvalidTopologyError(repr(self), f"{name} must be a number, not {given!r}")
        for holds, reason in (
            (self.attempts >= 1, "attempts must be at least 1, because it includes the first one"),
            (self.delay >= 0, "delay must not be negative"),
            (self.factor >= 1, "factor must be at least 1, so that delays do not shrink"),
            (self.max_delay >= 0, "max_delay must not be negative"),
            (self.max_delay <= _LONGEST, "max_delay must be a year at most"),
            (0 <= self.jitter < 1, "jitter must be a share of the delay, from 0 to below 1"),
            (self.in_place >= 0, "in_place must not be negative"),
            (
                _are_exceptions(self.dead_letter_on),
                "dead_letter_on must be a tuple of exception classes, as in (ValueError,)",
            ),
        ):
            if not holds:
                raise InvalidTopologyError(repr(self), reason)

    def delay_after(self, attempt: int) -> float:
        """Return the delay after this failed attempt."""
        delay = self._delay_after(attempt)
        if not self.jitter:
            return delay
        return delay * random.uniform(1 - self.jitter, 1 + self.jitter)  # noqa: S311 - no secret

    @property
    def window(self) -> float:
        """Return the longest time between an event's first failure and its last attempt.

        The time that handlers and brokers take is not included.
        """
        delays, growing = self.attempts - 1, min(self.attempts - 1, _GROWTHS + 1)
        total = sum(self._delay_after(attempt) for attempt in range(1, growing + 1))
        total += (delays - growing) * self._delay_after(delays)
        return total * (1 + self.jitter)

    def _delay_after(self, attempt: int) -> float:
        # The exponent is limited: the power would overflow long after max_delay applies.
        return min(self.delay * self.factor ** min(attempt - 1, _GROWTHS), self.max_delay)


def _are_exceptions(given: object) -> bool:
    return isinstance(given, tuple) and all(
        isinstance(each, type) and issubclass(each, BaseException)
        for each in cast("tuple[object, ...]", given)
    )
