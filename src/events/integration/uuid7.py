"""Message ids: UUID version 7 of RFC 9562, section 5.7.

    48 bits   milliseconds since the epoch
     4 bits   version, 7
    12 bits   the fraction of the millisecond (section 6.2, method 3), so ids of one process sort
     2 bits   variant, 0b10
    62 bits   random

An id that would not be greater than the last takes the last one's time plus a tick of 1/4096 ms;
a clock that is put back further than a minute is believed, rather than held against it for ever.
The random bits come from the operating system's generator, fetched in bulk since a system call per
id would cost half as much again; a forked child throws its parent's supply away.
"""

from __future__ import annotations

import os
from time import time_ns

__all__ = ["uuid7"]

SUPPLY = 4096
LEEWAY = 60_000 << 12
VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
FRACTIONS = [f"{fraction:03x}" for fraction in range(1 << 12)]


def _no_supply() -> None:
    """Begin anew in a forked child: what is left of the supply is its parent's."""
    _supply.clear()


_supply: list[str] = []  # the second half of ids, from the variant on
_last = 0
_this_milli = (-1, "")


def uuid7(now: int | None = None) -> str:
    """Give a new id in its canonical form. `now` is `time.time_ns()`, for those who have it."""
    global _last, _this_milli  # noqa: PLW0603
    millis, nanos = divmod(time_ns() if now is None else now, 1_000_000)
    # Twelve bits of fraction: 2**12 ticks in the 10**6 ns of a millisecond.
    tick = millis << 12 | (nanos << 12) // 1_000_000
    if _last - LEEWAY < tick <= _last:
        tick = _last + 1
    _last = tick
    try:
        random = _supply.pop()
    except IndexError:
        random = _restocked()
    # Read and written as one, since threads share it.
    kept, text = _this_milli
    if tick >> 12 != kept:
        time = f"{tick >> 12:012x}"
        text = f"{time[:8]}-{time[8:]}-7"
        _this_milli = (tick >> 12, text)
    return text + FRACTIONS[tick & 0xFFF] + random


def _restocked() -> str:
    """Draw a supply of random halves, and give one of them."""
    drawn = os.urandom(SUPPLY).hex()
    halves = [
        f"-{VARIANT[drawn[at]]}{drawn[at + 1 : at + 4]}-{drawn[at + 4 : at + 16]}"
        for at in range(0, len(drawn), 16)
    ]
    _supply.extend(halves[1:])
    return halves[0]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_no_supply)
