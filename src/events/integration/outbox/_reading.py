"""Reads the table in batches, from its beginning, or from the end of the last batch.

Only a *scan* from the beginning sees all due rows, including postponed rows and rows that were
committed late, with ids below those read before. Reading *on* from the last batch keeps the relay
fast if the table begins with many deleted rows that the database has not removed yet, as in
PostgreSQL while an old snapshot is open. It also reads the next batch while this one is being sent.

So the relay usually reads on, and scans regularly: scans take at most a tenth of the time, however
slow they are; if they are fast, as usual, there is one every few milliseconds.

A batch is limited in rows and in bytes of bodies. If the bytes ended a batch, the next read asks
for fewer rows, because a database may have to read each body to know its length.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from events.integration.outbox.partitions import Lease
from events.integration.outbox.port import OutboxRow, OutboxStore
from events.integration.pipeline.cancelling import answered, ended

_SHARE = 10  # a scan that took a second is not repeated for ten
_BUSY = 0.2  # seconds between two scans while batch follows upon batch


class Reader:
    """Reads due rows. With `scans_only`, each read is from the beginning, so it skips no rows.

    Args:
        store: Where it reads.
        limit: Rows in a batch.
        max_bytes: Bytes of bodies that end a batch.
        scans_only: For an order that must see every row.
        timeout: Seconds that a read may take.
    """

    def __init__(
        self,
        store: OutboxStore,
        limit: int,
        *,
        scans_only: bool,
        max_bytes: int | None = None,
        timeout: float | None = None,
    ) -> None:
        self._store = store
        self._limit = self._asked = limit
        self._max_bytes = max_bytes
        self._scans_only = scans_only
        self._timeout = timeout
        self._after: int | None = None
        self._scan_at = 0.0
        self._ahead: asyncio.Task[Sequence[OutboxRow]] | None = None
        self._full = False
        self._scanned = False

    @property
    def caught_up(self) -> bool:
        """Return whether no rows were left after the last batch."""
        return not self._full

    @property
    def scan_in(self) -> float | None:
        """Return the seconds until a scan is needed; None if the last read was one."""
        if self._scanned or self._after is None:
            return None
        return max(0.0, self._scan_at - asyncio.get_running_loop().time())

    @property
    def has_read_ahead(self) -> bool:
        """Return whether the next batch, after the last one, is being read or has been read."""
        return self._ahead is not None

    async def start_over(self) -> None:
        """Begin with a scan next time, and drop what was read ahead."""
        self._after = None
        # The rows after the last batch are unknown: there may be no partitions left.
        self._full = False
        if self._ahead is not None:
            # Not cancelled: that would cost the connection. What it read stays in the table.
            await asyncio.wait([self._ahead])
            ahead, self._ahead = self._ahead, None
            if not ahead.cancelled():
                ahead.exception()

    async def give_up(self) -> None:
        """Cancel reading ahead, even if that costs a connection."""
        if self._ahead is not None:
            await ended(self._ahead)
            await self.start_over()

    async def next(self, lease: Lease) -> Sequence[OutboxRow]:
        """Return the next batch of the lease's partitions."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            return self._noted(await ahead)
        now = asyncio.get_running_loop().time
        if self._after is not None and now() < self._scan_at:
            return self._noted(await self._due(lease, self._after))
        return await self._scan(lease)

    async def _scan(self, lease: Lease) -> Sequence[OutboxRow]:
        now = asyncio.get_running_loop().time
        began, reached = now(), self._after or 0
        rows = await self._due(lease)
        limit = self._asked
        self._full, self._scanned = self._is_full(rows), True
        rows = _at_most(limit, rows)
        last = max((row.id for row in rows if not row.was_postponed), default=0)
        if self._scans_only:
            return rows
        # If there is more, it begins behind the last one, be that among what had been passed over.
        self._after = (last if self._full else max(last, reached)) or None
        self._scan_at = now() + max(_BUSY if self._full else 0, _SHARE * (now() - began))
        return rows

    def _noted(self, rows: Sequence[OutboxRow]) -> Sequence[OutboxRow]:
        self._full, self._scanned = self._is_full(rows), False
        if rows:
            self._after = rows[-1].id
        return rows

    def read_ahead(self, lease: Lease) -> None:
        """Begin to read the next batch, if there is one that follows the last."""
        if (
            self._full
            and self._after is not None
            and self._ahead is None
            and asyncio.get_running_loop().time() < self._scan_at
        ):
            self._ahead = asyncio.create_task(self._due(lease, self._after))

    async def _due(self, lease: Lease, after: int | None = None) -> Sequence[OutboxRow]:
        due = self._store.due(lease, self._asked, after=after, max_bytes=self._max_bytes)
        return await answered(due, self._timeout)

    def _is_full(self, rows: Sequence[OutboxRow]) -> bool:
        """Return whether there may be more than this batch, and set how many rows the next has."""
        full = len(rows) >= self._asked
        if self._max_bytes is None:
            return full
        if sum(len(row.message.body) for row in rows) >= self._max_bytes:
            # A power of two, as each number is a statement of its own to the database.
            self._asked = min(self._limit, 1 << (2 * len(rows)).bit_length())
            return True
        self._asked = min(self._limit, 2 * self._asked)
        return full


def _at_most(limit: int, rows: Sequence[OutboxRow]) -> Sequence[OutboxRow]:
    """Return up to `limit` rows. If there are more, postponed rows get up to half of the places.

    A scan may find a full batch of each kind, and neither kind must wait for all of the other.
    """
    if len(rows) <= limit:
        return rows
    postponed = [row.id for row in rows if row.was_postponed]
    at_once = [row.id for row in rows if not row.was_postponed]
    share = min(len(postponed), max(limit - len(at_once), (limit + 1) // 2))
    taken = {*postponed[:share], *at_once[: limit - share]}
    return [row for row in rows if row.id in taken]
