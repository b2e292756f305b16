"""The two orders in which rows may leave, and what a row that fails does to those behind it.

`best_effort`: a batch is one wave, all in flight at once. What fails delays itself alone.

`per_key`: rows of one key leave in the order of their ids, one confirmed before the next is tried:
the first of each key is in the first wave, the second in the second, and so on. A row that was
refused is *failing* until it is sent or parked, and the later ones of its key wait for it:

    read, its key is not failing, or this is the failing row ------> its wave
    read after the failing row, in one batch ----------------------> a later wave
    read without it ------------> deferred until the failing row's time
    in a wave after a refusal --> deferred until the refused row's new time

Deferred rows have the time of the row they wait for and higher ids, so they are read after it.
Which rows are failing is in the table (they have attempts and a time to come), so a relay that is
given a lane learns it from there.

The order of ids is that of the commits, key by key, if the writers of a key take turns, as they do
that update the row of one aggregate before the commit: `put` on a session takes ids after that.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Literal, Protocol, TypeAlias

from msgspec import Struct

from events.integration.outbox.port import OutboxRow

__all__ = ["BestEffort", "Order", "PerKey", "Plan", "RowOrder", "order_named"]

Order: TypeAlias = Literal["best_effort", "per_key"]


class Plan(Struct, frozen=True):
    """Waves that leave one after another, and rows that wait, by the time they wait for."""

    waves: Sequence[Sequence[OutboxRow]]
    deferred: Mapping[datetime, Sequence[int]] = {}


class RowOrder(Protocol):
    """How the rows of a batch leave. `strict` orders look at every row each time."""

    @property
    def strict(self) -> bool:
        """Tell whether no row may be passed over, and no batch read before the last has left."""
        ...

    def learn(self, failing: Iterable[tuple[int, str, datetime]]) -> None:
        """Take over what the table says of the rows that are failing."""
        ...

    def plan(self, rows: Sequence[OutboxRow]) -> Plan:
        """Lay out a batch."""
        ...

    def failed(self, row: OutboxRow, until: datetime) -> None:
        """Remember that this row is failing, and when it is tried again."""
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
            raise ValueError(f"order={name!r}: there are 'best_effort' and 'per_key'")


class BestEffort:
    """All at once."""

    strict = False

    def learn(self, failing: Iterable[tuple[int, str, datetime]]) -> None:
        """Nothing waits for a failing row."""

    def plan(self, rows: Sequence[OutboxRow]) -> Plan:
        """One wave."""
        return Plan([rows])

    def failed(self, row: OutboxRow, until: datetime) -> None:
        """Nothing waits for a failing row."""

    def over(self, rows: Iterable[OutboxRow]) -> None:
        """Nothing waits for a failing row."""


class PerKey:
    """One after another, key by key."""

    strict = True

    def __init__(self) -> None:
        self._failing: dict[str, dict[int, datetime]] = {}

    def learn(self, failing: Iterable[tuple[int, str, datetime]]) -> None:
        """See `RowOrder.learn`."""
        self._failing.clear()
        for row, key, until in failing:
            self._failing.setdefault(key, {})[row] = until

    def plan(self, rows: Sequence[OutboxRow]) -> Plan:
        """See `RowOrder.plan`."""
        waves: list[list[OutboxRow]] = []
        deferred: defaultdict[datetime, list[int]] = defaultdict(list)
        depth: Counter[str] = Counter()
        here = {row.id for row in rows} if self._failing else set[int]()
        for row in rows:
            key = row.message.key
            if key is None:
                position = 0
            else:
                until = self._blocked(key, row.id, here)
                if until is not None:
                    deferred[until].append(row.id)
                    continue
                position = depth[key]
                depth[key] += 1
            if position == len(waves):
                waves.append([])
            waves[position].append(row)
        return Plan(waves, deferred)

    def _blocked(self, key: str, row: int, here: set[int]) -> datetime | None:
        """Return the time of a failing row that must leave before this one and is not here."""
        failing = self._failing.get(key, {})
        return max(
            (until for other, until in failing.items() if other < row and other not in here),
            default=None,
        )

    def failed(self, row: OutboxRow, until: datetime) -> None:
        """See `RowOrder.failed`."""
        if row.message.key is not None:
            self._failing.setdefault(row.message.key, {})[row.id] = until

    def over(self, rows: Iterable[OutboxRow]) -> None:
        """See `RowOrder.over`."""
        if not self._failing:
            return
        for row in rows:
            failing = self._failing.get(row.message.key or "")
            if failing is not None:
                failing.pop(row.id, None)
                if not failing and row.message.key is not None:
                    del self._failing[row.message.key]
