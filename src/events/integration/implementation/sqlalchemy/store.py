"""`SQLAlchemyOutboxStore`: the tables of the outbox, as relays read and write them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    Executable,
    Table,
    bindparam,
    func,
    literal_column,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from events.integration.implementation.sqlalchemy._calendar import Calendar
from events.integration.implementation.sqlalchemy._checking import check_tables
from events.integration.implementation.sqlalchemy._clock import aware, clock
from events.integration.implementation.sqlalchemy._due import Due
from events.integration.implementation.sqlalchemy._leases import Leases
from events.integration.implementation.sqlalchemy._many import Many
from events.integration.implementation.sqlalchemy._opening import at_level, begun, connected
from events.integration.implementation.sqlalchemy._parking import Parking
from events.integration.implementation.sqlalchemy._removing import Removal
from events.integration.implementation.sqlalchemy._wakeup import hearing, nudge
from events.integration.implementation.sqlalchemy._watching import Watching
from events.integration.implementation.sqlalchemy.tables import (
    AT_ONCE,
    CURE,
    MOST_IDS,
    Tables,
    default_table,
)
from events.integration.message import Message
from events.integration.outbox import (
    Backlog,
    Lease,
    NextSchedule,
    Outbox,
    OutboxRow,
    Parked,
    ParkedRow,
    Postponed,
    Renewal,
    ScheduledRow,
    WaitingRow,
)

_AT_A_TIME = 1_000  # rows, about a millisecond
_NEVER = datetime(9999, 12, 31, tzinfo=UTC)
_DEFERRED = "waits for an earlier event of its key"


class SQLAlchemyOutboxStore:
    """The relay's side of the outbox: on SQLite, PostgreSQL, MariaDB and MySQL.

    You own the engine; it may be the application's. On PostgreSQL, a relay has one connection in
    addition to the pool, on which it listens.

    Args:
        engine: An engine whose pool gives each user a separate connection.
        table: The result of `outbox_table`, if it has another name or a schema.
    """

    def __init__(self, engine: AsyncEngine, *, table: Table | None = None) -> None:
        if not isinstance(engine, AsyncEngine):
            raise TypeError(
                f"SQLAlchemyOutboxStore needs an AsyncEngine, not {type(engine).__name__}: "
                f"from sqlalchemy.ext.asyncio import create_async_engine"
            )
        self._dialect = engine.dialect.name
        # One statement is one round trip without a transaction around it. SQLite has no trips to
        # save, and switching costs it two calls to the connection's thread.
        self._single = engine if self._dialect == "sqlite" else at_level(engine, "AUTOCOMMIT")
        # Several statements must be one transaction, whatever the engine's own users want: under
        # AUTOCOMMIT two relays would hold one partition, and a row be parked and sent. Under
        # another level a transaction would go on seeing what was there before it had its locks.
        level = "SERIALIZABLE" if self._dialect == "sqlite" else "READ COMMITTED"
        self._engine = at_level(engine, level)
        self._tables = tables = Tables(default_table() if table is None else table)
        self._leases = Leases(self._engine, tables)
        self._watching = Watching(self._single, tables, self._leases)
        self._parking = Parking(self._engine, tables)
        self._due = Due(self._engine, self._single, tables)
        table = tables.outbox
        c = table.c
        self._calendar = Calendar(self._engine, self._single, table, self._nudge)
        self._many = Many(engine, table)
        self._removal = Removal(self._single, self._many)
        self._postpone = (
            update(table)
            .where(c.id == bindparam("row"))
            .values(
                attempts=bindparam("attempts_"),
                last_error=bindparam("error"),
                available_at=bindparam("then"),
            )
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._engine.url!r}, {self._tables.outbox.fullname!r})"

    async def check(self) -> None:
        """See `OutboxStore.check`. Warns of settings under which writers would wait for the relay.

        Raises `OutboxError` for a database that is shared through one connection, or a user who may
        not write to the tables.
        """
        async with connected(self._engine) as connection:
            await connection.run_sync(check_tables, self._tables, CURE)
        if self._dialect != "sqlite":  # which knows no rights, and would make writers wait
            await self._parking.check()

    # --- leases -------------------------------------------------------------------------------

    async def renew(self, decide: Callable[[Sequence[Lease]], Renewal]) -> Renewal:
        """See `OutboxStore.renew`."""
        return await self._leases.renew(decide)

    async def leave(self, lease: Lease) -> None:
        """See `OutboxStore.leave`."""
        await self._leases.leave(lease)

    # --- rows ---------------------------------------------------------------------------------

    async def due(
        self,
        lease: Lease,
        limit: int,
        *,
        after: int | None = None,
        max_bytes: int | None = None,
    ) -> Sequence[OutboxRow]:
        """See `OutboxStore.due`."""
        return await self._due(lease, limit, after, max_bytes)

    async def waiting(self, lease: Lease) -> Sequence[tuple[int, str, datetime]]:
        """See `OutboxStore.waiting`."""
        c = self._tables.outbox.c
        query = select(c.id, c.key, c.available_at).where(
            # Two ends, so that PostgreSQL takes them for few before it knows, and the index.
            c.available_at > AT_ONCE,
            c.available_at < _NEVER,
            c.last_error.is_not(None),
            c.key.is_not(None),
            c.partition_id.in_(sorted(lease.partitions)),
        )
        waiting: list[tuple[int, str, datetime]] = []
        async with connected(self._engine) as connection:
            # There may be very many, and the event loop is the application's too.
            found = await connection.stream(query, execution_options={"yield_per": _AT_A_TIME})
            async for part in found.partitions():
                waiting += [(number, key, aware(until)) for number, key, until in part]
        return waiting

    async def remove(self, ids: Collection[int]) -> None:
        """See `OutboxStore.remove`."""
        rest = list(ids)
        if self._dialect == "sqlite":
            await self._removal(rest)
            return
        async with begun(self._single) as connection:
            while rest:
                await connection.execute(*self._many.delete(rest[:MOST_IDS]))
                del rest[:MOST_IDS]

    async def postpone(self, rows: Sequence[Postponed]) -> Sequence[datetime]:
        """See `OutboxStore.postpone`."""
        async with begun(self._engine) as connection:
            now = aware((await connection.execute(select(clock()))).scalar_one())
            then = [now + timedelta(seconds=row.delay) for row in rows]
            await connection.execute(
                self._postpone,
                [
                    {"row": row.id, "error": row.error, "then": until, "attempts_": row.attempts}
                    for row, until in zip(rows, then, strict=True)
                ],
            )
        return then

    async def defer(self, ids: Collection[int], until: datetime) -> None:
        """See `OutboxStore.defer`."""
        rest = list(ids)
        async with begun(self._engine) as connection:
            while rest:
                await connection.execute(*self._many.defer(rest[:MOST_IDS], until, _DEFERRED))
                del rest[:MOST_IDS]

    async def park(self, rows: Sequence[Parked]) -> None:
        """See `OutboxStore.park`."""
        await self._parking.park(rows)

    # --- scheduled rows -----------------------------------------------------------------------

    def scheduling(self) -> AbstractAsyncContextManager[Outbox]:
        """See `SchedulingStore.scheduling`."""
        return self._calendar.scheduling()

    def listen_for_schedules(self, wake: Callable[[], None]) -> AbstractContextManager[None]:
        """See `SchedulingStore.listen_for_schedules`."""
        return self._calendar.listen_for_schedules(wake)

    async def next_schedule(self) -> NextSchedule:
        """See `SchedulingStore.next_schedule`."""
        return await self._calendar.next_schedule()

    async def release(self, limit: int) -> int:
        """See `SchedulingStore.release`."""
        return await self._calendar.release(limit)

    async def recurred(self, name: str) -> datetime:
        """See `SchedulingStore.recurred`."""
        return await self._calendar.recurred(name)

    async def recur(
        self, name: str, since: datetime, until: datetime, messages: Sequence[Message]
    ) -> bool:
        """See `SchedulingStore.recur`."""
        return await self._calendar.recur(name, since, until, messages)

    def _nudge(self) -> None:
        nudge(self._engine.sync_engine, self._tables.outbox)

    # --- watching -----------------------------------------------------------------------------

    async def backlog(self) -> Backlog:
        """See `OutboxStore.backlog`."""
        count = select(
            select(func.count()).select_from(self._tables.outbox).scalar_subquery(),
            select(func.count()).select_from(self._tables.parked).scalar_subquery(),
        )
        async with connected(self._single) as connection:
            pending, parked = (await connection.execute(count)).one()
            return Backlog(pending, parked, await self._oldest_age(connection.execute))

    async def oldest_age(self) -> float:
        """See `OutboxStore.oldest_age`."""
        async with connected(self._single) as connection:
            return await self._oldest_age(connection.execute)

    async def _oldest_age(self, execute: Callable[[Executable], Coroutine[Any, Any, Any]]) -> float:
        c = self._tables.outbox.c
        put = (
            select(c.created_at)
            .where(c.available_at <= AT_ONCE)
            .order_by(c.available_at, c.id)
            .limit(1)
        )
        then = (
            select(c.available_at)
            .where(c.available_at > AT_ONCE, c.available_at <= clock())
            .order_by(c.available_at)
            .limit(1)
        )
        ages = select(put.scalar_subquery(), then.scalar_subquery(), clock())
        oldest_put, oldest_then, now = (await execute(ages)).one()
        since = [aware(moment) for moment in (oldest_put, oldest_then) if moment is not None]
        return max(((aware(now) - moment).total_seconds() for moment in since), default=0.0)

    async def newest(self) -> int:
        """See `OutboxStore.newest`."""
        async with connected(self._single) as connection:
            newest = select(func.max(self._tables.outbox.c.id))
            return (await connection.execute(newest)).scalar_one() or 0

    async def has_due(self, up_to: int) -> bool:
        """See `OutboxStore.has_due`."""
        c = self._tables.outbox.c
        # Not EXISTS, for which PostgreSQL reads the table, past all that was postponed.
        due = select(c.id).where(c.id <= up_to, c.available_at <= clock())
        first = due.order_by(c.available_at, c.id).limit(literal_column("1"))
        async with connected(self._single) as connection:
            return (await connection.execute(first)).first() is not None

    async def scheduled(self, *, limit: int, after: int | None) -> Sequence[ScheduledRow]:
        """See `WatchedOutboxStore.scheduled`."""
        return await self._watching.scheduled(limit=limit, after=after)

    async def leases(self) -> Sequence[Lease]:
        """See `WatchedOutboxStore.leases`."""
        return await self._watching.leases()

    async def waiting_of(self, correlation_id: str, *, limit: int) -> Sequence[WaitingRow]:
        """See `SearchedOutboxStore.waiting_of`."""
        return await self._watching.waiting_of(correlation_id, limit=limit)

    def listen(self, wake: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        """See `OutboxStore.listen`: hears of this process's commits, on PostgreSQL of all."""
        return hearing(self._engine, self._tables.outbox, wake)

    # --- parked rows --------------------------------------------------------------------------

    async def parked(self, *, limit: int, after: int | None) -> Sequence[ParkedRow]:
        """See `OutboxStore.parked`."""
        return await self._parking.parked(limit=limit, after=after)

    async def redrive(self, ids: Sequence[int]) -> Sequence[int]:
        """See `OutboxStore.redrive`."""
        return await self._parking.redrive(ids)

    async def discard(self, ids: Sequence[int]) -> Sequence[int]:
        """See `OutboxStore.discard`."""
        return await self._parking.discard(ids)

    async def purge(self, older_than: timedelta, *, limit: int) -> int:
        """See `OutboxStore.purge`."""
        return await self._parking.purge(older_than, limit=limit)
