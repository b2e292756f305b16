"""The table of relays: read and written by one relay at a time.

A transaction begins by updating the row without a name, which makes every other relay wait for its
end, on each database alike: PostgreSQL and MariaDB lock that row, SQLite the whole file. What is
read after that is what the others have committed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from events.errors import OutboxTableError
from events.integration.implementation.sqlalchemy._clock import aware, clock
from events.integration.implementation.sqlalchemy._opening import begun
from events.integration.implementation.sqlalchemy.tables import Tables
from events.integration.outbox import Attendance, Lease

__all__ = ["Leases"]

_LOCK = ""  # the name of the row that is locked
_TRIES = 2  # the second finds what another relay has made meanwhile
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


class Leases:
    """The leases of one outbox. The engine's transactions see what the others have committed."""

    def __init__(self, engine: AsyncEngine, tables: Tables) -> None:
        self._engine = engine
        self._table = table = tables.relays
        c = table.c
        self._lock = update(table).where(c.relay == _LOCK).values(expires_at=clock())
        self._read = select(
            c.relay, c.token, c.lanes, c.lease_seconds, c.expires_at, clock()
        ).order_by(c.relay)

    async def attend(self, decide: Callable[[Sequence[Lease]], Attendance]) -> Attendance:
        """See `OutboxStore.attend`."""
        refused: IntegrityError | None = None
        for _ in range(_TRIES):
            async with begun(self._engine) as connection:
                attended = await connection.run_sync(self._attend, decide)
            if attended is not None:
                return attended
            try:
                async with begun(self._engine) as connection:
                    await connection.execute(insert(self._table), _row_of_lock())
            except IntegrityError as error:  # perhaps as another relay has made it meanwhile
                refused = error
        reason = "it is gone again at once" if refused is None else str(refused.orig)
        raise OutboxTableError(
            self._table.fullname,
            f"the row without a name, by which relays lock one another out, cannot be kept in it: "
            f"{reason}; no column but those of outbox_table may be required, and none be checked",
        ) from refused

    def _attend(
        self, connection: Connection, decide: Callable[[Sequence[Lease]], Attendance]
    ) -> Attendance | None:
        if not connection.execute(self._lock).rowcount:
            return None
        leases: list[Lease] = []
        now = _NEVER
        for relay, token, lanes, length, expires_at, read_at in connection.execute(self._read):
            now = aware(read_at)
            if relay != _LOCK:
                remaining = (aware(expires_at) - now).total_seconds()
                leases.append(Lease(relay, token, _lanes(lanes), length, remaining))
        attended = decide(leases)
        c = self._table.c
        there = {lease.relay for lease in leases}.difference(attended.ended)
        if attended.ended:
            connection.execute(delete(self._table).where(c.relay.in_(attended.ended)))
        for lease in attended.written:
            values = {
                "token": lease.token,
                "lanes": ",".join(map(str, sorted(lease.lanes))),
                "lease_seconds": lease.length,
                "expires_at": now + timedelta(seconds=lease.remaining),
            }
            if lease.relay in there:
                connection.execute(update(self._table).where(c.relay == lease.relay).values(values))
            else:
                connection.execute(insert(self._table), {"relay": lease.relay, **values})
        return attended

    async def leave(self, lease: Lease) -> None:
        """See `OutboxStore.leave`."""
        c = self._table.c
        async with begun(self._engine) as connection:
            # Without the lock: it takes nothing from anybody.
            await connection.execute(
                delete(self._table).where(c.relay == lease.relay, c.token == lease.token)
            )


def _row_of_lock() -> dict[str, object]:
    return {
        "relay": _LOCK,
        "token": "",
        "lanes": "",
        "lease_seconds": 0.0,
        "expires_at": _NEVER,
    }


def _lanes(text: str) -> frozenset[int]:
    return frozenset(map(int, text.split(","))) if text else frozenset()
