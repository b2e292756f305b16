"""Dead letters that have one cause, taken together: by consumer, type, reason and fingerprint."""

from __future__ import annotations

import re
from datetime import datetime
from hashlib import sha256

from msgspec import Struct

from events.integration.message import DeadLetter

__all__ = ["Group", "Groups", "fingerprint", "group_id"]

_LONGEST = 400  # characters of an error that tell its cause
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


def fingerprint(error: str) -> str:
    """Return the first line of an error without what differs from one event to the next.

    >>> fingerprint("ValueError: no user 4711, asked at 2026-11-29")
    'ValueError: no user #, asked at #'
    """
    first = error.strip().partition("\n")[0][:_LONGEST]
    return _volatile("#", first)


def group_id(letter: DeadLetter) -> str:
    """Return the id of the group that a dead letter belongs to; the same in each process."""
    return _id(_key(letter))


def _key(letter: DeadLetter) -> tuple[str, str, str, str]:
    return letter.consumer, letter.message.type, letter.reason, fingerprint(letter.error)


def _id(key: tuple[str, ...]) -> str:
    return sha256("\0".join(key).encode("utf-8", "surrogatepass")).hexdigest()[:12]


class Group(Struct, frozen=True, kw_only=True):
    """Dead letters of one consumer, type, reason and fingerprint. `sample` is the id of one."""

    id: str
    consumer: str
    type: str
    reason: str
    fingerprint: str
    count: int
    first: datetime
    last: datetime
    sample: str


class _Count:
    __slots__ = ("count", "first", "last", "sample")

    def __init__(self, letter: DeadLetter) -> None:
        self.count = 0
        self.first = self.last = letter.died_at
        self.sample = letter.id


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
        count.count += 1
        count.first = min(count.first, letter.died_at)
        count.last = max(count.last, letter.died_at)

    def largest_first(self) -> list[Group]:
        """Return the groups, those with most letters first."""
        groups = [
            Group(
                id=_id(key),
                consumer=key[0],
                type=key[1],
                reason=key[2],
                fingerprint=key[3],
                count=count.count,
                first=count.first,
                last=count.last,
                sample=count.sample,
            )
            for key, count in self._counts.items()
        ]
        return sorted(groups, key=lambda group: (-group.count, group.id))
