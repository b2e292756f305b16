"""The seats of buses, in the table of members."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from events.integration.implementation.sqlalchemy._bus.sharing import (
    Held,
    Seat,
    Taken,
    holdings,
    take,
    text_of,
)
from events.integration.implementation.sqlalchemy._bus.tables import BusTables
from events.integration.implementation.sqlalchemy._members import Entry, Members


class Seats:
    """The seats of all buses on these tables."""

    def __init__(self, engine: AsyncEngine, tables: BusTables) -> None:
        self._members = Members(engine, tables.members, who="buses")
        self._unanswered: Mapping[int, Held] = {}

    async def take(self, me: Seat, busy: Mapping[int, int]) -> Taken:
        """Renew the lease of this seat, and take or give up partitions; see `sharing.take`.

        If a call fails after its commit, the next one returns what was in doubt as well.
        """

        def change(entries: Sequence[Entry]) -> tuple[Taken, Iterable[str], Iterable[Entry]]:
            taken = take(map(_seat, entries), me, busy, self._unanswered)
            self._unanswered = taken.held
            return taken, taken.ended, map(_entry, taken.written)

        taken = await self._members.change(change)
        self._unanswered = {}
        return taken

    async def leave(self, me: Seat) -> None:
        """Delete the seat and release all its partitions."""
        await self._members.leave(me.member, me.token)


def _seat(entry: Entry) -> Seat:
    held = holdings(entry.partitions)
    return Seat(entry.name, entry.token, *held, entry.length, entry.remaining)


def _entry(seat: Seat) -> Entry:
    return Entry(seat.member, seat.token, text_of(seat), seat.length, seat.remaining)
