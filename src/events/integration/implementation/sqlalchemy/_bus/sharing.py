"""The partitions of each consumer, leased to the buses that serve it.

As with relays (`events.integration.outbox.partitions`), a row belongs to a partition by its key, a
partition is held by one bus at most, until its lease runs out by the database's clock. One bus
serves many consumers, so it has one *seat* for all of them: partitions by consumer, one lease.

    free --taken up to the share--> read --more buses than before--> drained --empty--> free
                                      ^                                 |
                                      '-------- fewer again ------------'

Of a partition that is drained nothing more is read; it is given up when what was read is settled.
The seat of a bus whose lease has run out stays until others have taken all that it held. What it
had in flight when it died, no more than its window, may be what it died of, see `queue`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from events.integration.outbox import PARTITIONS

ALL = (1 << PARTITIONS) - 1
"""The set of all partitions, as bits."""


class Seat(Struct, frozen=True):
    """The leases of one bus by the consumer's number: partitions, and its in-flight limit.

    `remaining` is in seconds.
    """

    member: str
    token: str
    partitions: Mapping[int, int]
    windows: Mapping[int, int]
    length: float
    remaining: float


class Held(Struct, frozen=True):
    """The partitions of one consumer: those that are held, and of these the ones that are read."""

    partitions: int
    read: int
    taken: int = 0
    """Partitions that belonged to a bus that died."""
    doubtful: int = 0
    """The number of rows that the dead bus may have had in flight."""

    @property
    def is_settled(self) -> bool:
        """Return whether it waits for no partition, and no member for one of its."""
        return self.partitions == self.read


class Taken(Struct, frozen=True):
    """A bus's decision: its leases by consumer, the seats that change, and those that end."""

    own: Seat
    held: Mapping[int, Held]
    written: Sequence[Seat]
    ended: Sequence[str]
    is_missing: bool


def take(
    seats: Iterable[Seat],
    me: Seat,
    busy: Mapping[int, int],
    unanswered: Mapping[int, Held] | None = None,
) -> Taken:
    """Decide, given all seats, what `me` holds from now on.

    `busy` has the consumers that it serves, each with the partitions in which something is
    unsettled. `unanswered` is what was decided before, if it is not known whether it was written.
    """
    mine: Mapping[int, int] = {}
    live: list[Seat] = []
    dead: dict[str, tuple[Seat, dict[int, int]]] = {}
    for seat in seats:
        if seat.member == me.member and seat.token == me.token:
            mine = seat.partitions
        elif seat.remaining <= 0:
            dead[seat.member] = seat, dict(seat.partitions)
        else:
            live.append(seat)
    held: dict[int, Held] = {}
    is_missing = False
    changed = set[str]()
    for consumer, at_work in busy.items():
        serving = (seat for seat in live if consumer in seat.partitions)
        others = {seat.member: seat.partitions[consumer] for seat in serving}
        share = _share(me.member, others)
        had = mine.get(consumer, 0)
        read = _first(had, share)
        partitions = read | (had & at_work)
        free = ALL & ~(partitions | had | _union(others.values()))
        taken = _first(free, share - read.bit_count())
        partitions, read = partitions | taken, read | taken
        is_missing = is_missing or read.bit_count() < share
        was_dead = doubtful = 0
        before = unanswered.get(consumer) if unanswered else None
        if before is not None and before.taken & had:  # it was written, and the dead seat is gone
            was_dead, doubtful = before.taken & had, before.doubtful
        for member, (seat, theirs) in dead.items():
            if theirs.get(consumer, 0) & taken:
                was_dead |= theirs[consumer] & taken
                doubtful += seat.windows[consumer]
                theirs[consumer] &= ~taken
                changed.add(member)
        held[consumer] = Held(partitions, read, was_dead, doubtful)
    own = replace(
        me,
        partitions={consumer: each.partitions for consumer, each in held.items()},
        remaining=me.length,
    )
    ended = [member for member, (_, theirs) in dead.items() if not any(theirs.values())]
    left = [
        replace(seat, partitions=theirs)
        for member, (seat, theirs) in dead.items()
        if member in changed and member not in ended
    ]
    overlong = [replace(o, remaining=o.length) for o in live if o.remaining > o.length]
    return Taken(own, held, [*overlong, *left, own], ended, is_missing)


def _share(member: str, others: Mapping[str, int]) -> int:
    each, left_over = divmod(PARTITIONS, len(others) + 1)
    return each + (sum(other < member for other in others) < left_over)


def _first(partitions: int, count: int) -> int:
    """Return the lowest so many of these partitions."""
    found = 0
    while partitions and found.bit_count() < count:
        lowest = partitions & -partitions
        found |= lowest
        partitions ^= lowest
    return found


def _union(sets: Iterable[int]) -> int:
    found = 0
    for each in sets:
        found |= each
    return found


def text_of(seat: Seat) -> str:
    """Return what it holds, as the table has it."""
    return ",".join(
        f"{consumer}:{held:x}:{seat.windows[consumer]}"
        for consumer, held in sorted(seat.partitions.items())
    )


def holdings(text: str) -> tuple[dict[int, int], dict[int, int]]:
    """Return the partitions and the windows that `text_of` wrote."""
    partitions, windows = dict[int, int](), dict[int, int]()
    for each in text.split(",") if text else ():
        consumer, held, window = each.split(":")
        partitions[int(consumer)] = int(held, 16)
        windows[int(consumer)] = int(window)
    return partitions, windows
