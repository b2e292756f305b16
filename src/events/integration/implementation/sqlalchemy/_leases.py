"""The leases of relays, in their table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from events.integration.implementation.sqlalchemy._members import Entry, Members
from events.integration.implementation.sqlalchemy.tables import Tables
from events.integration.outbox import Lease, Renewal


class Leases:
    """The leases of one outbox. The engine's transactions see what the others have committed."""

    def __init__(self, engine: AsyncEngine, tables: Tables) -> None:
        self._members = Members(engine, tables.relays, who="relays")
        self.query = self._members.query

    async def renew(self, decide: Callable[[Sequence[Lease]], Renewal]) -> Renewal:
        """See `OutboxStore.renew`."""

        def change(
            entries: Sequence[Entry],
        ) -> tuple[Renewal, Iterable[str], Iterable[Entry]]:
            renewed = decide([_lease(entry) for entry in entries])
            return renewed, renewed.ended, map(_entry, renewed.written)

        return await self._members.change(change)

    def of(self, rows: Iterable[Any]) -> list[Lease]:
        """Make leases of what `query` gives."""
        return [_lease(entry) for entry in self._members.of(rows)]

    async def leave(self, lease: Lease) -> None:
        """See `OutboxStore.leave`."""
        await self._members.leave(lease.relay, lease.token)


def _lease(entry: Entry) -> Lease:
    held = (
        frozenset(map(int, entry.partitions.split(","))) if entry.partitions else frozenset[int]()
    )
    return Lease(entry.name, entry.token, held, entry.length, entry.remaining)


def _entry(lease: Lease) -> Entry:
    held = ",".join(map(str, sorted(lease.partitions)))
    return Entry(lease.relay, lease.token, held, lease.length, lease.remaining)
