"""What becomes of a failed attempt: another one here, another one through the broker, or the end.

attempt fails --> attempts left? --no--> dead letter
| yes
delay short, or the broker cannot delay? --yes--> wait in place, next attempt
| no
through the broker
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from events.integration.message import Reject, Retry
from events.integration.topology import RetryPolicy

__all__ = ["RETRIES_EXHAUSTED", "UNRETRYABLE", "Verdict", "Wait", "judge"]

RETRIES_EXHAUSTED = "retries-exhausted"
UNRETRYABLE = "unretryable"


class Wait(Struct, frozen=True):
    """Wait in place for `seconds`, then try again."""

    seconds: float


Verdict: TypeAlias = Wait | Retry | Reject


def judge(policy: RetryPolicy, error: Exception, attempt: int, *, delayed_retry: bool) -> Verdict:
    """Say what becomes of an event whose attempt ended with this error."""
    if isinstance(error, policy.dead_letter_on):
        return Reject(UNRETRYABLE, describe(error), attempt)
    if attempt >= policy.attempts:
        return Reject(RETRIES_EXHAUSTED, describe(error), attempt)
    delay = policy.delay_after(attempt)
    if delay <= policy.in_place or not delayed_retry:
        return Wait(delay)
    return Retry(delay, attempt)


def describe(error: BaseException) -> str:
    """Return the error as a dead letter keeps it: its class, its text, its notes."""
    return "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])
