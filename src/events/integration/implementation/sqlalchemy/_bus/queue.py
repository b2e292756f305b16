"""The reading state of one registration: what is in flight, and where the next read begins.

Rows are handed over a windowful at a time. The window grows while it is settled quickly and shrinks
while it is not, so that where handlers are slow, little is held that another bus could handle.

A row that ends its process is not marked by it: rows are not written to before they are handled. So
the first rows of partitions that were a dead bus's, as many as its window was wide, are in doubt.
They are handed over one at a time, each after a crash was counted in the table, which its
settlement takes back. So what dies of such a row has cost that row a crash and no other; in the end
it is a dead letter, see `pipeline.crashes`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec.structs import replace

from events.errors import OutboxError
from events.integration.implementation.sqlalchemy._bus.rows import Found, Rows
from events.integration.implementation.sqlalchemy._bus.sharing import Held, Seat
from events.integration.message import UNDECODABLE, Reject, Settlement
from events.integration.outbox import PARTITIONS
from events.integration.transport import Deliver, Subscription

_PER_HANDLER = 16  # deliveries per handler where some wait behind their key
_WIDEST = 500
_MAX_BYTES = 8 << 20
_QUICK, _SLOW = 0.25, 1.0  # seconds in which a windowful is settled
_SHARE = 10  # a scan that took a second is not repeated for ten
_LONGEST = 2.0  # seconds; what was postponed waits for a scan
_BUSY = 0.05  # seconds between two scans while there is more


class Queue:
    """A running registration. `settled` is called with each row and its settlement."""

    def __init__(
        self,
        number: int,
        subscription: Subscription,
        deliver: Deliver,
        settled: Callable[[Queue, Found, Settlement], None],
    ) -> None:
        self.number = number
        self.held = Held(0, 0)
        self.paused = False
        self.in_flight: dict[int, Found] = {}  # handed over, and not settled in the database
        self.last_poll: float | None = None
        self.may_have_more = True
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._name = subscription.consumer
        self._deliver = deliver
        self._settled = settled
        self._least = subscription.concurrency * (_PER_HANDLER if subscription.ordered else 1)
        self._window = self.widest = self._least  # the widest is what the seat says
        self._granted = self._least
        self._in_doubt = 0  # partitions
        self._doubtful = 0  # rows in them
        # By row, its partition and its crashes; it is not known whether the table has them already.
        self._marking: dict[int, tuple[int, int]] = {}
        self._after: int | None = None
        self._is_backlog: bool = False  # as far as the last read knows
        self._scan_at = 0.0
        self._counted = 0
        self._since = asyncio.get_running_loop().time()
        self._unsettled = [0] * PARTITIONS
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def has_room(self) -> bool:
        """Return whether a read is worthwhile."""
        return not self.paused and len(self.in_flight) <= self._window // 2

    @property
    def busy(self) -> int:
        """Return the partitions in which something is unsettled."""
        return sum(1 << partition for partition, rows in enumerate(self._unsettled) if rows)

    @property
    def wants_more(self) -> bool:
        """Return whether the window is to be wider than the seat says."""
        return self.widest > self._granted

    def grant(self, held: Held, window: int) -> None:
        """Take over the partitions that it has from now on, and the window that its seat says."""
        if held.read & ~self.held.read:  # what waits in them may be anywhere
            self.give_back()
        self.held = held
        self._granted = window
        self._window = min(self.widest, window)
        if held.taken:
            self._in_doubt |= held.taken
            self._doubtful += held.doubtful
        self._in_doubt &= held.read
        if not self._in_doubt:
            self._doubtful = 0
        if self._marking:
            marking = self._marking.items()
            self._marking = {row: mark for row, mark in marking if held.read >> mark[0] & 1}

    async def read(self, rows: Rows, seat: Seat) -> int:
        """Hand over what is due, as far as there is room; return how much that was."""
        in_doubt = await self._read_one_in_doubt(rows, seat) if self._in_doubt else 0
        return in_doubt + await self._read(rows, seat)

    async def _read_one_in_doubt(self, rows: Rows, seat: Seat) -> int:
        if any(row.is_marked for row in self.in_flight.values()):
            return 0
        partitions, known = self._in_doubt, frozenset(self.in_flight)
        found = list[Found]()
        if self._doubtful:
            me = self.number, self._name
            found, _ = await rows.due(
                seat, me, partitions, limit=1, max_bytes=_MAX_BYTES, known=known
            )
        if not found:
            self._in_doubt = self._doubtful = 0
            self._marking.clear()
            self.give_back()
            return 0
        if self.paused:
            return 0
        row = found[0]
        crashes = row.crashes
        if self._marking.get(row.row) != (row.partition, crashes):
            crashes += 1
            self._marking[row.row] = row.partition, crashes
        await rows.mark(row.row, crashes)
        self._marking.pop(row.row, None)
        self._doubtful -= 1
        self._hand_over(replace(row, is_marked=True, crashes=crashes))
        return 1

    async def _read(self, rows: Rows, seat: Seat) -> int:
        partitions = self.held.read & ~self._in_doubt
        if not partitions or not self.has_room:
            return 0
        now = asyncio.get_running_loop().time
        limit = max(self._window - len(self.in_flight), 1)
        began = now()
        after = self._after if began < self._scan_at else None
        found, is_full = await rows.due(
            seat,
            (self.number, self._name),
            partitions,
            limit=limit,
            max_bytes=_MAX_BYTES,
            after=after,
            known=frozenset(self.in_flight),  # of now: what is settled meanwhile is still read
            is_backlog=self._is_backlog,
        )
        ended = now()
        self.last_poll = ended
        self._is_backlog = is_full
        self.may_have_more = is_full or bool(self._in_doubt)
        last = max((row.row for row in found if not row.was_postponed), default=0)
        if after is None:
            # If there is more, it is behind the last one, be that among what had been passed over.
            reached = self._after or 0
            self._after = (last if is_full else max(last, reached)) or None
            rest = min(_SHARE * (ended - began), _LONGEST)
            self._scan_at = ended + max(_BUSY if is_full else 0.0, rest)
        elif last:
            self._after = last
        if self.paused:
            return 0
        for row in found:
            self._hand_over(row)
        return len(found)

    def _hand_over(self, row: Found) -> None:
        self.in_flight[row.row] = row
        self._unsettled[row.partition] += 1
        self._empty.clear()
        if row.fault is not None:
            self._settled(self, row, _unreadable(row, row.fault))
            return
        future = self._deliver(row)
        future.add_done_callback(lambda done: self._settled(self, row, done.result()))

    def forget(self, row: Found) -> None:
        """Note that the row is settled in the database, or another bus's again."""
        if self.in_flight.pop(row.row, None) is None:
            return
        self._unsettled[row.partition] -= 1
        if not self.in_flight:
            self._empty.set()
        self._adapt()

    def _adapt(self) -> None:
        self._counted += 1
        if self._counted < self._window:
            return
        now = asyncio.get_running_loop().time()
        took, self._since, self._counted = now - self._since, now, 0
        if took < _QUICK:
            self.widest = min(2 * self._window, max(_WIDEST, self._least))
        elif took > _SLOW:
            self._window = self.widest = max(self._window // 2, self._least)

    def give_back(self) -> None:
        """Have the next read start from the beginning: a row that was read is available again."""
        self._after = None
        self.may_have_more = True

    async def empty(self) -> None:
        """Return when all that was handed over is settled."""
        await self._empty.wait()


def _unreadable(row: Found, fault: OutboxError) -> Reject:
    return Reject(UNDECODABLE, str(fault), row.attempt)
