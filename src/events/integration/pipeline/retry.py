"""The decision on a failed attempt: retry in this process, retry at the broker, or reject.

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

_LONGEST = 10_000  # characters of an error that are kept: its beginning and its end


class Wait(Struct, frozen=True):
    """Wait in this process for `seconds`, then retry."""

    seconds: float


Verdict: TypeAlias = Wait | Retry | Reject


def judge(
    policy: RetryPolicy, error: BaseException, attempt: int, *, delayed_retry: bool
) -> Verdict:
    """Return what happens next to an event whose attempt ended with this error."""
    # A wrong definition stays wrong for as long as this process lives.
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
    """Return the reason why there is no other attempt after this error, or None if there is one.

    `for_good` are exception classes that no policy retries.
    """
    if is_of(error, for_good, *policy.dead_letter_on):
        return UNRETRYABLE
    return RETRIES_EXHAUSTED if attempt >= policy.attempts else None


def is_of(error: BaseException, *classes: type[BaseException]) -> bool:
    """Return whether the error, or each error in its group, is of these classes."""
    grouped = _grouped(error)
    return isinstance(error, classes) or (
        bool(grouped) and all(is_of(each, *classes) for each in grouped)
    )


def describe(error: BaseException) -> str:
    """Return the text of an error for dead letters: class, text, notes and grouped errors.

    It works for every exception, its length is limited, and brokers and databases accept it: NUL
    characters and lone surrogates are escaped.
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
    yield f"{type(error).__name__}: {str(error) or _place_of(error)}"
    notes: Iterable[object] = getattr(error, "__notes__", ())
    yield from map(str, notes)
    for each in _grouped(error):
        yield from _lines(each)


def _place_of(error: BaseException) -> str:
    """Return where an error without a text was raised, such as a `TimeoutError`."""
    place, left = "it has no text", error.__traceback__
    while left is not None:
        module: object = left.tb_frame.f_globals.get("__name__")
        if not str(module).startswith("asyncio"):  # frames that only pass the exception on
            name = left.tb_frame.f_code.co_qualname
            place = f"it has no text, and was raised in {module}, {name}, line {left.tb_lineno}"
        left = left.tb_next
    return place


def _grouped(error: BaseException) -> Sequence[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).exceptions
    return ()
