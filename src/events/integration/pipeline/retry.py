"""What becomes of a failed attempt: another one here, another one through the broker, or the end.

attempt fails --> attempts left? --no--> dead letter
                      | yes
                  delay short, or the broker cannot delay? --yes--> wait in place, next attempt
                      | no
                  through the broker
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias, cast

from msgspec import Struct

from events.errors import InvalidTopologyError
from events.integration.message import RETRIES_EXHAUSTED, UNRETRYABLE, Reject, Retry
from events.integration.topology import RetryPolicy

__all__ = ["Verdict", "Wait", "describe", "given_up", "is_of", "judge"]

_LONGEST = 10_000  # characters of an error that are kept: its beginning and its end


class Wait(Struct, frozen=True):
    """Wait in place for `seconds`, then try again."""

    seconds: float


Verdict: TypeAlias = Wait | Retry | Reject


def judge(
    policy: RetryPolicy, error: BaseException, attempt: int, *, delayed_retry: bool
) -> Verdict:
    """Say what becomes of an event whose attempt ended with this error."""
    # What is wired up wrongly stays so for as long as this process lives.
    reason = given_up(policy, error, attempt, for_good=InvalidTopologyError)
    if reason is not None:
        return Reject(reason, describe(error), attempt)
    delay = policy.delay_after(attempt)
    if delay <= policy.in_place or not delayed_retry:
        return Wait(delay)
    return Retry(delay, attempt)


def given_up(
    policy: RetryPolicy, error: BaseException, attempt: int, *, for_good: type[BaseException]
) -> str | None:
    """Return for which reason there is no other attempt after this error; None if there is one.

    `for_good` is what no policy retries.
    """
    if is_of(error, for_good, *policy.dead_letter_on):
        return UNRETRYABLE
    return RETRIES_EXHAUSTED if attempt >= policy.attempts else None


def is_of(error: BaseException, *classes: type[BaseException]) -> bool:
    """Tell whether it is of these classes, or a group of nothing else, as of a `TaskGroup`."""
    grouped = _grouped(error)
    return isinstance(error, classes) or (
        bool(grouped) and all(is_of(each, *classes) for each in grouped)
    )


def describe(error: BaseException) -> str:
    """Return the error as a dead letter keeps it: its class, its text, its notes, what it groups.

    Whatever was raised, this does not fail, is not endless, and is text that brokers and databases
    take: NUL characters and lone surrogates are written as escapes.
    """
    try:
        text = "\n".join(_lines(error))
    except Exception as unprintable:  # noqa: BLE001 - the user's own `__str__`
        text = f"{type(error).__name__}: its text raised {type(unprintable).__name__}"
    if len(text) > _LONGEST:
        half, left_out = _LONGEST // 2, len(text) - _LONGEST
        text = f"{text[:half]} ... {left_out:,} characters ... {text[-half:]}"
    return text.replace("\0", "\\x00").encode(errors="backslashreplace").decode()


def _lines(error: BaseException) -> Iterator[str]:
    yield f"{type(error).__name__}: {error}"
    notes: Iterable[object] = getattr(error, "__notes__", ())
    yield from map(str, notes)
    for each in _grouped(error):
        yield from _lines(each)


def _grouped(error: BaseException) -> Sequence[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).exceptions
    return ()
