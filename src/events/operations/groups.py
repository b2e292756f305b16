"""Dead letters that have one cause, taken together: by consumer, type, reason and fingerprint.

The place in a fingerprint has no line number: a deploy that moves a function in its file must not
split its group, nor change the id that an operator has copied.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache
from hashlib import sha256

from msgspec import Struct

from events.integration.message import DeadLetter

_LONGEST = 400  # characters of an error's first line that tell its cause
_LOOKED_AT = 2_048  # characters of an error: its place is in the second line
_MOST = 1_000  # groups: errors whose text never repeats must not fill the memory
_OTHERS = "others"

_volatile = re.compile(
    r"""
    [0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}  # a UUID
    | [\w.+-]{1,64}@[\w.-]{1,100}                         # an address of mail
    | 0[xX][0-9a-fA-F]+
    | \b(?=[0-9a-fA-F]*[0-9])[0-9a-fA-F]{8,}\b            # a hash
    | [0-9]+(?:[.,:_-][0-9]+)*                            # a number, a date, a version
    """,
    re.VERBOSE,
).sub

_place = re.compile(r"at ((\S.{0,400}):\d+( in \S+))").fullmatch


def fingerprint(error: str) -> str:
    r"""Return an error's class, file and function, or its first line without numbers and ids.

    >>> fingerprint("ValueError: no user 4711\nat shop/mails.py:42 in send")
    'ValueError at shop/mails.py in send'
    >>> fingerprint("ValueError: no user 4711, asked at 2026-11-29")
    'ValueError: no user #, asked at #'
    """
    return _fingerprint(error[:_LOOKED_AT])


@lru_cache(1_024)  # errors without numbers and ids are the same text each time
def _fingerprint(error: str) -> str:
    first, place = _read(error)
    if place is None:
        return _volatile("#", first)
    return f"{first.partition(':')[0]} at {place[2]}{place[3]}"


def _read(error: str) -> tuple[str, re.Match[str] | None]:
    """Return the first line of an error, and its place if the second line has one."""
    first, _, rest = error.strip().partition("\n")
    return first[:_LONGEST], _place(rest.partition("\n")[0])


def group_id(letter: DeadLetter) -> str:
    """Return the id of the group that a dead letter belongs to; the same in each process."""
    return _id(_key(letter))


def _key(letter: DeadLetter) -> tuple[str, str, str, str]:
    return letter.consumer, letter.message.type, letter.reason, fingerprint(letter.error)


def _id(key: tuple[str, ...]) -> str:
    return sha256("\0".join(key).encode("utf-8", "surrogatepass")).hexdigest()[:12]


class Group(Struct, frozen=True, kw_only=True):
    """Dead letters of one consumer, type, reason and fingerprint.

    `sample` is the id of the one that died last, and `error` the first line of its error, numbers
    and ids stripped. `place` is where that was raised, with its line, if it is known.
    """

    id: str
    consumer: str
    type: str
    reason: str
    fingerprint: str
    error: str
    place: str | None
    count: int
    first: datetime
    last: datetime
    sample: str


class _Count:
    __slots__ = ("count", "error", "first", "last", "sample")

    def __init__(self, letter: DeadLetter) -> None:
        self.count = 0
        self.first = self.last = letter.died_at
        self.sample = letter.id
        self.error = letter.error[:_LOOKED_AT]

    def add(self, letter: DeadLetter) -> None:
        self.count += 1
        died_at = letter.died_at
        if died_at >= self.last:
            self.last, self.sample = died_at, letter.id
            self.error = letter.error[:_LOOKED_AT]
        elif died_at < self.first:
            self.first = died_at

    def as_group(self, key: tuple[str, str, str, str]) -> Group:
        consumer, type_, reason, print_ = key
        error, place = _read(self.error)
        return Group(
            id=_id(key),
            consumer=consumer,
            type=type_,
            reason=reason,
            fingerprint=print_,
            error=_volatile("#", error),
            place=place and place[1],
            count=self.count,
            first=self.first,
            last=self.last,
            sample=self.sample,
        )


class Groups:
    """Count dead letters by group, in memory that the number of letters does not change."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._counts: dict[tuple[str, str, str, str], _Count] = {}

    def add(self, letter: DeadLetter) -> None:
        """Count one; beyond the most groups, as one of the others of its consumer and reason."""
        key = _key(letter)
        if key not in self._counts and len(self._counts) >= self._most:
            key = (letter.consumer, "", letter.reason, _OTHERS)
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = _Count(letter)
        count.add(letter)

    def largest_first(self) -> list[Group]:
        """Return the groups, those with most letters first."""
        groups = [count.as_group(key) for key, count in self._counts.items()]
        return sorted(groups, key=lambda group: (-group.count, group.id))
