"""A table of live members and their leases, read and written by one of them at a time.

A transaction begins by updating the row without a name, which makes everybody else wait for its
end, on each database alike: PostgreSQL and MariaDB lock that row, SQLite the whole file. What is
read after that is what the others have committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeAlias, TypeVar

from sqlalchemy import Connection, Table, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from events.integration.implementation.sqlalchemy._clock import aware, clock
from events.integration.implementation.sqlalchemy._keeping import TRIES, cannot_keep
from events.integration.implementation.sqlalchemy._opening import begun

_LOCK = ""  # the name of the row that is locked
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)

T = TypeVar("T")


class Entry(NamedTuple):
    """A live member, and how many seconds its lease has left, by the database's clock."""

    name: str
    token: str
    partitions: str
    length: float
    remaining: float


Change: TypeAlias = Callable[[Sequence[Entry]], tuple[T, Iterable[str], Iterable[Entry]]]
"""Decide, given all entries: what is returned, the names that end, the entries to write."""


class Members:
    """The entries of one table. The engine's transactions see what the others have committed."""

    def __init__(self, engine: AsyncEngine, table: Table, *, who: str) -> None:
        self._engine = engine
        self._table = table
        self._who = who
        c = table.c
        [self._name] = table.primary_key
        self._lock = update(table).where(self._name == _LOCK).values(expires_at=clock())
        columns = (self._name, c.token, c.partitions, c.lease_seconds, c.expires_at, clock())
        self.query = select(*columns).order_by(self._name)

    async def change(self, decide: Change[T]) -> T:
        """Have entries read, changed and written while no other member does that."""
        refused: IntegrityError | None = None
        for _ in range(TRIES):
            async with begun(self._engine) as connection:
                changed = await connection.run_sync(self._change, decide)
            if changed is not None:
                return changed[0]
            try:
                async with begun(self._engine) as connection:
                    await connection.execute(insert(self._table), self._row_of_lock())
            except IntegrityError as error:  # perhaps as another has made it meanwhile
                refused = error
        row = f"the row without a name, by which {self._who} lock one another out,"
        raise cannot_keep(self._table, row, refused) from refused

    def _change(self, connection: Connection, decide: Change[T]) -> tuple[T] | None:
        if not connection.execute(self._lock).rowcount:
            return None
        rows = connection.execute(self.query).all()
        now = aware(rows[0][-1])
        entries = self.of(rows)
        result, ended, written = decide(entries)
        gone = list(ended)
        there = {entry.name for entry in entries}.difference(gone)
        if gone:
            connection.execute(delete(self._table).where(self._name.in_(gone)))
        for entry in written:
            values = {
                "token": entry.token,
                "partitions": entry.partitions,
                "lease_seconds": entry.length,
                "expires_at": now + timedelta(seconds=entry.remaining),
            }
            if entry.name in there:
                mine = update(self._table).where(self._name == entry.name)
                connection.execute(mine.values(values))
            else:
                connection.execute(insert(self._table), {self._name.name: entry.name, **values})
        return (result,)

    @staticmethod
    def of(rows: Iterable[Any]) -> list[Entry]:
        """Make entries of what `query` gives."""
        return [
            Entry(name, token, held, length, (aware(expires) - aware(read)).total_seconds())
            for name, token, held, length, expires, read in rows
            if name != _LOCK
        ]

    async def leave(self, name: str, token: str) -> None:
        """Remove an entry, without the lock: that takes nothing from anybody."""
        mine = (self._name == name) & (self._table.c.token == token)
        async with begun(self._engine) as connection:
            await connection.execute(delete(self._table).where(mine))

    def _row_of_lock(self) -> dict[str, object]:
        return {
            self._name.name: _LOCK,
            "token": "",
            "partitions": "",
            "lease_seconds": 0.0,
            "expires_at": _NEVER,
        }
