"""The table of members: read and written by one bus at a time, see `_leases`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from events.errors import OutboxTableError
from events.integration.implementation.sqlalchemy._bus.sharing import (
    Seat,
    Taken,
    holdings,
    take,
    text_of,
)
from events.integration.implementation.sqlalchemy._bus.tables import BusTables
from events.integration.implementation.sqlalchemy._clock import aware, clock
from events.integration.implementation.sqlalchemy._opening import begun

__all__ = ["Seats"]

_LOCK = ""  # the name of the row that is locked
_TRIES = 2  # the second finds what another bus has made meanwhile
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


class Seats:
    """The seats of all buses on these tables."""

    def __init__(self, engine: AsyncEngine, tables: BusTables) -> None:
        self._engine = engine
        self._table = table = tables.members
        c = table.c
        self._lock = update(table).where(c.member == _LOCK).values(expires_at=clock())
        self._read = select(c.member, c.token, c.partitions, c.lease_seconds, c.expires_at, clock())

    async def take(self, me: Seat, busy: Mapping[int, int]) -> Taken:
        """Renew the lease of this seat, and take or give up partitions; see `sharing.take`."""
        refused: IntegrityError | None = None
        for _ in range(_TRIES):
            async with begun(self._engine) as connection:
                taken = await connection.run_sync(self._take, me, busy)
            if taken is not None:
                return taken
            try:
                async with begun(self._engine) as connection:
                    await connection.execute(insert(self._table), _ROW_OF_LOCK)
            except IntegrityError as error:  # perhaps as another bus has made it meanwhile
                refused = error
        raise OutboxTableError(
            self._table.fullname,
            "the row without a name, by which buses lock one another out, cannot be kept in it; "
            "no column but those of bus_table may be required, and none be checked",
        ) from refused

    def _take(self, connection: Connection, me: Seat, busy: Mapping[int, int]) -> Taken | None:
        if not connection.execute(self._lock).rowcount:
            return None
        seats: list[Seat] = []
        now = _NEVER
        rows = connection.execute(self._read)
        for member, token, partitions, length, expires_at, read_at in rows:
            now = aware(read_at)
            if member != _LOCK:
                remaining = (aware(expires_at) - now).total_seconds()
                seats.append(Seat(member, token, *holdings(partitions), length, remaining))
        taken = take(seats, me, busy)
        c = self._table.c
        there = {seat.member for seat in seats}
        if taken.ended:
            connection.execute(delete(self._table).where(c.member.in_(taken.ended)))
        for seat in taken.written:
            values = {
                "token": seat.token,
                "partitions": text_of(seat),
                "lease_seconds": seat.length,
                "expires_at": now + timedelta(seconds=seat.remaining),
            }
            if seat.member in there:
                statement = update(self._table).where(c.member == seat.member)
                connection.execute(statement.values(values))
            else:
                connection.execute(insert(self._table), {"member": seat.member, **values})
        return taken

    async def leave(self, me: Seat) -> None:
        """Give up the seat, and all partitions with it."""
        c = self._table.c
        async with begun(self._engine) as connection:
            await connection.execute(
                delete(self._table).where(c.member == me.member, c.token == me.token)
            )


_ROW_OF_LOCK: dict[str, object] = {
    "member": _LOCK,
    "token": "",
    "partitions": "",
    "lease_seconds": 0.0,
    "expires_at": _NEVER,
}
