"""Who takes what: the lanes of each consumer, leased to the buses that serve it.

As with relays (`events.integration.outbox.lanes`), a row belongs to a lane by its key, a lane is
held by one bus at most, until its lease runs out by the database's clock. One bus serves many
consumers, so it has one *seat* for all of them: lanes by consumer, one lease.

    free --taken up to the share--> read --more buses than before--> drained --empty--> free
                                      ^                                 |
                                      '-------- fewer again ------------'

Of a lane that is drained nothing more is read; it is given up when what was read is settled.
The seat of a bus whose lease has run out stays until others have taken all that it held. What it
had at hand when it died, no more than its window, may be what it died of, see `queue`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from events.integration.outbox import LANES

__all__ = ["ALL", "Held", "Seat", "Taken", "holdings", "take", "text_of"]

ALL = (1 << LANES) - 1
"""The set of all lanes, as bits."""


class Seat(Struct, frozen=True):
    """What one bus holds, by the consumer's number: lanes, and how many rows it may have at hand.

    `remaining` is in seconds.
    """

    member: str
    token: str
    lanes: Mapping[int, int]
    windows: Mapping[int, int]
    length: float
    remaining: float


class Held(Struct, frozen=True):
    """The lanes of one consumer: those that are held, and of these the ones that are read."""

    lanes: int
    read: int
    taken: int = 0
    """Those that were a dead bus's until now."""
    doubtful: int = 0
    """How many rows that one may have had at hand."""

    @property
    def is_settled(self) -> bool:
        """Tell whether it waits for no lane, and nobody waits for one of its."""
        return self.lanes == self.read


class Taken(Struct, frozen=True):
    """What a bus decided: what it holds by consumer, the seats that change, and those that end."""

    own: Seat
    held: Mapping[int, Held]
    written: Sequence[Seat]
    ended: Sequence[str]
    is_missing: bool


def take(seats: Iterable[Seat], me: Seat, busy: Mapping[int, int]) -> Taken:
    """Decide, given all seats, what `me` holds from now on.

    `busy` has the consumers that it serves, each with the lanes in which something is unsettled.
    """
    mine: Mapping[int, int] = {}
    live: list[Seat] = []
    dead: dict[str, tuple[Seat, dict[int, int]]] = {}
    for seat in seats:
        if seat.member == me.member and seat.token == me.token:
            mine = seat.lanes
        elif seat.remaining <= 0:
            dead[seat.member] = seat, dict(seat.lanes)
        else:
            live.append(seat)
    held: dict[int, Held] = {}
    is_missing = False
    changed = set[str]()
    for consumer, at_work in busy.items():
        others = {seat.member: seat.lanes[consumer] for seat in live if consumer in seat.lanes}
        share = _share(me.member, others)
        had = mine.get(consumer, 0)
        read = _first(had, share)
        lanes = read | (had & at_work)
        free = ALL & ~(lanes | had | _union(others.values()))
        taken = _first(free, share - read.bit_count())
        lanes, read = lanes | taken, read | taken
        is_missing = is_missing or read.bit_count() < share
        was_dead = doubtful = 0
        for member, (seat, theirs) in dead.items():
            if theirs.get(consumer, 0) & taken:
                was_dead |= theirs[consumer] & taken
                doubtful += seat.windows[consumer]
                theirs[consumer] &= ~taken
                changed.add(member)
        held[consumer] = Held(lanes, read, was_dead, doubtful)
    own = replace(
        me, lanes={consumer: each.lanes for consumer, each in held.items()}, remaining=me.length
    )
    ended = [member for member, (_, theirs) in dead.items() if not any(theirs.values())]
    left = [
        replace(seat, lanes=theirs)
        for member, (seat, theirs) in dead.items()
        if member in changed and member not in ended
    ]
    overlong = [replace(o, remaining=o.length) for o in live if o.remaining > o.length]
    return Taken(own, held, [*overlong, *left, own], ended, is_missing)


def _share(member: str, others: Mapping[str, int]) -> int:
    each, left_over = divmod(LANES, len(others) + 1)
    return each + (sum(other < member for other in others) < left_over)


def _first(lanes: int, count: int) -> int:
    """Return the lowest so many of these lanes."""
    found = 0
    while lanes and found.bit_count() < count:
        lowest = lanes & -lanes
        found |= lowest
        lanes ^= lowest
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
        for consumer, held in sorted(seat.lanes.items())
    )


def holdings(text: str) -> tuple[dict[int, int], dict[int, int]]:
    """Return the lanes and the windows that `text_of` wrote."""
    lanes, windows = dict[int, int](), dict[int, int]()
    for each in text.split(",") if text else ():
        consumer, held, window = each.split(":")
        lanes[int(consumer)] = int(held, 16)
        windows[int(consumer)] = int(window)
    return lanes, windows
