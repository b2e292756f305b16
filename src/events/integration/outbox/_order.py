"""The two orders in which rows are sent, and the effect of a failed row on later ones.

`best_effort`: a batch is one wave, all in flight at once. A failed row delays only itself.

`per_key`: rows of one key are sent in the order of their ids, each confirmed before the next: the
first of each key is in the first wave, the second in the second, and so on. A row that was refused
is *failing* until it is sent or parked, and the later ones of its key wait for it:

    read, with all earlier rows of its key that wait ---> its wave
    read without one of them ---------------------------> deferred until that one's time
    in a wave after a refusal --------------------------> not tried, and read again

Deferred rows have the time of the row that they wait for and higher ids, so they are read after it.
The table stores which rows are failing or deferred: they have a time and a reason. So a relay that
gets a partition reads it there. A row that was put with `available_at` waits for that time, and no
row waits for it.

For each key, the order of ids is that of the commits if the writers of a key exclude each other, as
when they update the row of one aggregate before the commit: `put` on a session takes ids after
that.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Literal, Protocol, TypeAlias

from msgspec import Struct

from events.integration.outbox.port import OutboxRow

Order: TypeAlias = Literal["best_effort", "per_key"]


class Plan(Struct, frozen=True):
    """Waves that are sent one after another, and waiting rows by the time that they wait for."""

    waves: Sequence[Sequence[OutboxRow]]
    deferred: Mapping[datetime, Sequence[OutboxRow]] = {}


class RowOrder(Protocol):
    """The order in which a batch is sent. `strict` orders look at every row each time."""

    @property
    def strict(self) -> bool:
        """Return whether no row may be skipped, and no batch read before the last one is sent."""
        ...

    def learn(self, waiting: Iterable[tuple[int, str, datetime]]) -> None:
        """Take over the failed and deferred rows from the table."""
        ...

    def plan(self, rows: Sequence[OutboxRow]) -> Plan:
        """Divide a batch into waves."""
        ...

    def waits(self, row: OutboxRow, until: datetime) -> None:
        """Remember that this row was postponed or deferred, and until when."""
        ...

    def over(self, rows: Iterable[OutboxRow]) -> None:
        """Forget rows that were sent or parked."""
        ...


def order_named(name: Order) -> RowOrder:
    """Return the order of this name. Raises `ValueError` for another."""
    match name:
        case "best_effort":
            return BestEffort()
        case "per_key":
            return PerKey()
        case _:
            raise ValueError(f"order must be 'best_effort' or 'per_key', not {name!r}")


class BestEffort:
    """All at once."""

    strict = False

    def learn(self, waiting: Iterable[tuple[int, str, datetime]]) -> None:
        """Nothing waits for a failing row."""

    def plan(self, rows: Sequence[OutboxRow]) -> Plan:
        """One wave."""
        return Plan([rows])

    def waits(self, row: OutboxRow, until: datetime) -> None:
        """Nothing waits for a failing row."""

    def over(self, rows: Iterable[OutboxRow]) -> None:
        """Nothing waits for a failing row."""


class PerKey:
    """One after another, key by key."""

    strict = True

    def __init__(self) -> None:
        self._waiting: defaultdict[str, dict[int, datetime]] = defaultdict(dict)

    def learn(self, waiting: Iterable[tuple[int, str, datetime]]) -> None:
        """See `RowOrder.learn`."""
        self._waiting.clear()
        for row, key, until in waiting:
            self._waiting[key][row] = until

    def plan(self, rows: Sequence[OutboxRow]) -> Plan:
        """See `RowOrder.plan`."""
        waves: list[list[OutboxRow]] = []
        deferred: defaultdict[datetime, list[OutboxRow]] = defaultdict(list)
        depth: Counter[str] = Counter()
        blockers = self._blockers(rows)
        for row in rows:
            key, position = row.message.key, 0
            if key is not None:
                blocker, until = blockers.get(key, (row.id, None))
                if until is not None and blocker < row.id:
                    deferred[until].append(row)
                    continue
                position = depth[key]
                depth[key] += 1
            if position == len(waves):
                waves.append([])
            waves[position].append(row)
        return Plan(waves, deferred)

    def _blockers(self, rows: Sequence[OutboxRow]) -> dict[str, tuple[int, datetime]]:
        """Return, for the keys of these rows, the first row that waits and is not among them."""
        if not self._waiting:
            return {}
        here = {row.id for row in rows}
        found: dict[str, tuple[int, datetime]] = {}
        for key in {row.message.key for row in rows}.intersection(self._waiting):
            if key is not None and (missing := self._waiting[key].keys() - here):
                first = min(missing)
                found[key] = first, self._waiting[key][first]
        return found

    def waits(self, row: OutboxRow, until: datetime) -> None:
        """See `RowOrder.waits`."""
        if row.message.key is not None:
            self._waiting[row.message.key][row.id] = until

    def over(self, rows: Iterable[OutboxRow]) -> None:
        """See `RowOrder.over`."""
        if not self._waiting:
            return
        for row in rows:
            key = row.message.key
            if key is not None and key in self._waiting:
                waiting = self._waiting[key]
                waiting.pop(row.id, None)
                if not waiting:
                    del self._waiting[key]
