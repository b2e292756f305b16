"""Message ids: UUID version 7 of RFC 9562, section 5.7.

    48 bits   milliseconds since the epoch
     4 bits   version, 7
    12 bits   the fraction of the millisecond (section 6.2, method 3), so ids of one process sort
     2 bits   variant, 0b10
    62 bits   random

If an id would not be greater than the last one, it gets the last one's time plus a tick of
1/4096 ms. If the clock is set back by more than a minute, new ids follow the clock. The random bits
come from the operating system's generator, in bulk, because a system call per id would cost half as
much again. A forked child discards its parent's supply.
"""

from __future__ import annotations

import os
from time import time_ns

SUPPLY = 512
LEEWAY = 60_000 << 12
VARIANT = bytes(0b10 << 6 | each & 0b111111 for each in range(256))
FRACTIONS = [f"{fraction:03x}" for fraction in range(1 << 12)]


def _no_supply() -> None:
    """Discard the supply in a forked child: it belongs to the parent."""
    _supply.clear()


_supply: list[str] = []  # the second half of ids, from the variant on
_last = 0
_this_milli = (-1, "")


def uuid7(now: int | None = None) -> str:
    """Return a new id in its canonical form. Pass `time.time_ns()` as `now` if you have it."""
    global _last, _this_milli  # noqa: PLW0603
    # A millisecond of 10**6 ns has 2**12 ticks: the milliseconds, and 12 bits of fraction.
    tick = ((time_ns() if now is None else now) << 6) // 15_625
    if tick <= _last and _last - LEEWAY < tick:
        tick = _last + 1
    _last = tick
    try:
        random = _supply.pop()
    except IndexError:
        random = _restocked()
    # One tuple, so that threads read and write both values at once.
    kept, text = _this_milli
    milli = tick >> 12
    if milli != kept:
        time = f"{milli:012x}"
        text = f"{time[:8]}-{time[8:]}-7"
        _this_milli = (milli, text)
    return text + FRACTIONS[tick & 0xFFF] + random


def _restocked() -> str:
    """Draw a supply of random halves, and give one of them."""
    heads = bytearray(os.urandom(SUPPLY * 2))
    heads[::2] = heads[::2].translate(VARIANT)
    tails = os.urandom(SUPPLY * 6)
    pairs = zip(heads.hex(" ", 2).split(), tails.hex(" ", 6).split(), strict=True)
    halves = [f"-{head}-{tail}" for head, tail in pairs]
    _supply.extend(halves[1:])
    return halves[0]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_no_supply)
