"""Partitions of the outbox, leased to relays.

Every row belongs to one of `PARTITIONS` partitions, by a hash of its key, or of its id if it has no
key. At any time, at most one relay holds a partition. So rows need no claims: sending a row updates
nothing, and no two relays send events of one key at the same time.

Each relay has one row in a table of leases: its partitions, and when its lease expires by the
database's clock. A relay *renews* regularly: in one transaction, under a lock that all relays take,
it reads all leases, decides with `renew`, and writes. There are no other changes, and they never
overlap:

    absent --joins, takes free partitions up to its share--> holding --renews--> holding
                                                              |  ^ |
           more relays than before: keeps its share -----------  | '-- fewer: takes free partitions
           stops: its row is deleted, its partitions are free <----'
           lease expired: the next relay that renews deletes its row, its partitions are free

    A relay's share is PARTITIONS / relays, rounded so that all shares add up to PARTITIONS.

No relay takes a partition from a lease that has not expired, and a relay releases partitions only
between two batches, with nothing in flight. A relay that was paused (SIGSTOP, a suspended machine)
does not notice the time that has passed. So it trusts its lease only for its length from *before*
it asked for it, by a clock that continues during a pause (`Tenure`). And each read is on condition
that its lease is still in the table.

Only the speed of the two clocks is compared. If the database's clock is set forward, leases expire
early: two relays may send the same batch once. If it is set back, a lease that would last longer
than its length is reduced to its length, so that a dead relay delays the others no longer.

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

PARTITIONS = 32
"""Part of the table's layout: changing it would put a key's old and new rows on two partitions."""

_ALL = frozenset(range(PARTITIONS))


class Lease(Struct, frozen=True):
    """A relay's lease of partitions. `token` distinguishes two processes with one name.

    `remaining` is the time in seconds until it expires, by the database's clock, 0 or less if it
    has expired; `length` is its time in seconds after a renewal.
    """

    relay: str
    token: str
    partitions: frozenset[int]
    length: float
    remaining: float


class Renewal(Struct, frozen=True):
    """A relay's decision: the leases to delete, those to write, and its own."""

    own: Lease
    ended: Sequence[str]
    written: Sequence[Lease]
    share: int


def partition_of(key: str | None, event_id: str) -> int:
    """Return the partition of a key, or of an event without one; the same in every process."""
    return crc32((event_id if key is None else key).encode()) % PARTITIONS


def renew(leases: Sequence[Lease], me: Lease) -> Renewal:
    """Decide from all leases which partitions the relay `me` holds from now on.

    Raises `RelayNameTakenError` while another process has a lease under its name.
    """
    mine = frozenset[int]()
    others: list[Lease] = []
    ended: list[str] = []
    for lease in leases:
        if lease.relay == me.relay and lease.token == me.token:
            # Expired or not: its row exists, so no other relay has these partitions.
            mine = lease.partitions
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
    """Return a clock that continues while this process, or its machine, is paused."""
    boot_time = getattr(time, "CLOCK_BOOTTIME", None)  # Linux: time.monotonic stops in a suspend
    return time.monotonic if boot_time is None else lambda: time.clock_gettime(boot_time)


class Tenure:
    """The remaining time of this process's lease, by its own clock."""

    def __init__(self) -> None:
        self._now = _clock()
        self._until = self._now()

    @property
    def remaining(self) -> float:
        """Return the seconds that are left, 0 or less once it has expired."""
        return self._until - self._now()

    def begin(self) -> Callable[[float], None]:
        """Call this before a renewal; call the result with the length that was granted."""
        asked = self._now()

        def granted(length: float) -> None:
            self._until = asked + length

        return granted

    def end(self) -> None:
        """End the lease for this process."""
        self._until = self._now()
