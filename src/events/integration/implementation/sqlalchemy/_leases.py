"""The table of relays: read and written by one relay at a time.

A transaction begins by updating the row without a name, which makes every other relay wait for its
end, on each database alike: PostgreSQL and MariaDB lock that row, SQLite the whole file. What is
read after that is what the others have committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from events.errors import OutboxTableError
from events.integration.implementation.sqlalchemy._clock import aware, clock
from events.integration.implementation.sqlalchemy._opening import begun
from events.integration.implementation.sqlalchemy.tables import Tables
from events.integration.outbox import Lease, Renewal

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
        self.query = select(
            c.relay, c.token, c.partitions, c.lease_seconds, c.expires_at, clock()
        ).order_by(c.relay)

    async def renew(self, decide: Callable[[Sequence[Lease]], Renewal]) -> Renewal:
        """See `OutboxStore.renew`."""
        refused: IntegrityError | None = None
        for _ in range(_TRIES):
            async with begun(self._engine) as connection:
                renewed = await connection.run_sync(self._attend, decide)
            if renewed is not None:
                return renewed
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
        self, connection: Connection, decide: Callable[[Sequence[Lease]], Renewal]
    ) -> Renewal | None:
        if not connection.execute(self._lock).rowcount:
            return None
        rows = connection.execute(self.query).all()
        now = aware(rows[0][-1])
        leases = self.of(rows)
        renewed = decide(leases)
        c = self._table.c
        there = {lease.relay for lease in leases}.difference(renewed.ended)
        if renewed.ended:
            connection.execute(delete(self._table).where(c.relay.in_(renewed.ended)))
        for lease in renewed.written:
            values = {
                "token": lease.token,
                "partitions": ",".join(map(str, sorted(lease.partitions))),
                "lease_seconds": lease.length,
                "expires_at": now + timedelta(seconds=lease.remaining),
            }
            if lease.relay in there:
                connection.execute(update(self._table).where(c.relay == lease.relay).values(values))
            else:
                connection.execute(insert(self._table), {"relay": lease.relay, **values})
        return renewed

    @staticmethod
    def of(rows: Iterable[Any]) -> list[Lease]:
        """Make leases of what `query` gives."""
        return [
            Lease(
                relay,
                token,
                _partitions(partitions),
                length,
                (aware(expires_at) - aware(read_at)).total_seconds(),
            )
            for relay, token, partitions, length, expires_at, read_at in rows
            if relay != _LOCK
        ]

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
        "partitions": "",
        "lease_seconds": 0.0,
        "expires_at": _NEVER,
    }


def _partitions(text: str) -> frozenset[int]:
    return frozenset(map(int, text.split(","))) if text else frozenset()
