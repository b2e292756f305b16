"""Who sends which rows: partitions, leased to relays.

Every row belongs to one of `PARTITIONS` partitions, by a hash of its key, or of its id where it has
none. At any time a partition is held by one relay at most, so rows need no claim of their own:
nothing is updated on a row's way out, and no two relays send the events of one key past one
another.

Each relay has one row in a table of leases: its partitions, and when its lease runs out by the
database's clock. A relay *renews* every now and then: in one transaction, under a lock that all of
them take, it reads all leases, decides by `renew` alone, and writes. So these are all the changes
there are, and they never overlap:

    absent --joins, takes what is free up to its share--> holding --renews--> holding
                                                           |  ^ |
           more relays than before: keeps its share --------  | '-- fewer: takes what is free
           stops: its row is deleted, its partitions are free <----'
           silent past its lease: whoever renews next deletes its row, its partitions are free

    A relay's share is PARTITIONS / relays, rounded so that the shares of all make up PARTITIONS.

Nobody takes a partition from a lease that has not run out, and its holder gives it back only
between two batches, with nothing in flight. What is left is a holder that was paused (SIGSTOP, a
suspended machine) and does not know that time has passed. It therefore trusts its lease for no
longer than its length from *before* it asked for it, by a clock of its own that goes on while it is
paused (`Tenure`); and what it reads, it reads on condition that its lease is still in the table.

The two clocks are compared for their speed only. If the database's clock is set forward, leases run
out early: two relays may send the same batch once. If it is set back, a lease that would last
longer than it is long is cut to its length, so that a dead relay is not waited for.

The lease goes back to C. Gray and D. Cheriton, "Leases: An Efficient Fault-Tolerant Mechanism for
Distributed File Cache Consistency", SOSP 1989.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from zlib import crc32

from msgspec import Struct
from msgspec.structs import replace

from events.errors import RelayNameTakenError

__all__ = ["PARTITIONS", "Lease", "Renewal", "Tenure", "partition_of", "renew"]

PARTITIONS = 32
"""Part of the table's layout: changing it would put a key's old and new rows on two partitions."""

_ALL = frozenset(range(PARTITIONS))


class Lease(Struct, frozen=True):
    """A relay's hold on partitions. `token` tells apart two processes of one name.

    `remaining` is how many seconds the database's clock gives it yet, none or less if it has run
    out; `length` is how many it has when it is renewed.
    """

    relay: str
    token: str
    partitions: frozenset[int]
    length: float
    remaining: float


class Renewal(Struct, frozen=True):
    """What a relay decided: the leases to delete, those to write, and which of them is its own."""

    own: Lease
    ended: Sequence[str]
    written: Sequence[Lease]
    share: int


def partition_of(key: str | None, event_id: str) -> int:
    """Return the partition of a key, or of an event without one; the same in every process."""
    return crc32((event_id if key is None else key).encode()) % PARTITIONS


def renew(leases: Sequence[Lease], me: Lease) -> Renewal:
    """Decide, given all leases, which partitions the relay `me` holds from now on.

    Raises `RelayNameTakenError` while another process holds a lease under its name.
    """
    mine = frozenset[int]()
    others: list[Lease] = []
    ended: list[str] = []
    for lease in leases:
        if lease.relay == me.relay and lease.token == me.token:
            mine = (
                lease.partitions
            )  # run out or not: nobody has ended it, so nobody has these partitions
        elif lease.remaining <= 0:
            ended.append(lease.relay)
        elif lease.relay == me.relay:
            raise RelayNameTakenError(me.relay, lease.token, lease.remaining)
        else:
            others.append(lease)

    share = _share(me.relay, [other.relay for other in others])
    free = _ALL.difference(mine, *(other.partitions for other in others))
    partitions = sorted(mine)[:share]
    partitions += sorted(free)[: share - len(partitions)]
    own = replace(me, partitions=frozenset(partitions), remaining=me.length)
    overlong = [replace(o, remaining=o.length) for o in others if o.remaining > o.length]
    return Renewal(own=own, ended=ended, written=[*overlong, own], share=share)


def _share(relay: str, others: Sequence[str]) -> int:
    each, left_over = divmod(PARTITIONS, len(others) + 1)
    return each + (sum(other < relay for other in others) < left_over)


def _clock() -> Callable[[], float]:
    """Return a clock that goes on while this process, or its machine, is paused."""
    boot_time = getattr(time, "CLOCK_BOOTTIME", None)  # Linux: time.monotonic stops in a suspend
    return time.monotonic if boot_time is None else lambda: time.clock_gettime(boot_time)


class Tenure:
    """How long this process may trust its lease, by its own clock."""

    def __init__(self) -> None:
        self._now = _clock()
        self._until = self._now()

    @property
    def remaining(self) -> float:
        """Return the seconds that are left; none or less once it has run out."""
        return self._until - self._now()

    def begin(self) -> Callable[[float], None]:
        """Call this before asking for a lease, and what it returns with the length granted."""
        asked = self._now()

        def granted(length: float) -> None:
            self._until = asked + length

        return granted

    def end(self) -> None:
        """Trust it no longer."""
        self._until = self._now()
