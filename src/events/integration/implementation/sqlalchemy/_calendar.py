"""Scheduled and recurring events at their time: a `SchedulingStore` on the tables.

What is due is moved inside the database, so no body travels for it. The rows keep their time, and
with it their place behind the index: what was put to be sent at once is found as ever.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Connection,
    Integer,
    Table,
    bindparam,
    insert,
    inspect,
    literal,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from events.integration.implementation.sqlalchemy._clock import aware, clock
from events.integration.implementation.sqlalchemy._keeping import Keeping
from events.integration.implementation.sqlalchemy._many import Many
from events.integration.implementation.sqlalchemy._opening import begun, connected
from events.integration.implementation.sqlalchemy._wakeup import hearing_schedules
from events.integration.implementation.sqlalchemy.outbox import SQLAlchemyOutbox, row_of
from events.integration.implementation.sqlalchemy.tables import (
    AT_ONCE,
    MOST_IDS,
    companion,
    fan_out_of,
    insert_rows,
)
from events.integration.message import Message
from events.integration.outbox import NextSchedule, Outbox


class Calendar:
    """Scheduled and recurring events of one outbox or bus. `put` is called after each commit."""

    def __init__(
        self, engine: AsyncEngine, single: AsyncEngine, table: Table, put: Callable[[], None]
    ) -> None:
        """Take an engine whose transactions see what was committed, and one for one statement."""
        self._engine = engine
        self._single = single
        self._owner = table
        self._put = put
        scheduled, self._recurring = companion(table, "scheduled"), companion(table, "recurring")
        c, r = scheduled.c, self._recurring.c
        first = select(c.available_at).order_by(c.available_at, c.id).limit(1)
        self._first = select(clock(), first.scalar_subquery())
        self._due = _Due(scheduled, engine.dialect.name)
        self._move = _moving(table, scheduled, engine.dialect.name)
        self._many = Many(engine, scheduled)
        self._keeping = Keeping(engine, single, self._recurring)
        self._until = select(r.put_until).where(r.name == bindparam("of"))
        self._begin = insert(self._recurring).from_select(
            ["name", "put_until"], select(bindparam("of", type_=r.name.type), clock())
        )
        self._advance = (
            update(self._recurring)
            .where(r.name == bindparam("of"), r.put_until == bindparam("since"))
            .values(put_until=bindparam("until"))
        )

    @asynccontextmanager
    async def scheduling(self) -> AsyncGenerator[Outbox]:
        """See `SchedulingStore.scheduling`."""
        async with begun(self._engine) as connection:
            yield SQLAlchemyOutbox(connection, table=self._owner)

    def listen_for_schedules(self, wake: Callable[[], None]) -> AbstractContextManager[None]:
        """See `SchedulingStore.listen_for_schedules`."""
        return hearing_schedules(self._engine, wake)

    async def next_schedule(self) -> NextSchedule:
        """See `SchedulingStore.next_schedule`."""
        async with connected(self._single) as connection:
            now, due_at = (await connection.execute(self._first)).one()
        return NextSchedule(aware(now), None if due_at is None else aware(due_at))

    async def release(self, limit: int) -> int:
        """See `SchedulingStore.release`."""
        async with begun(self._engine) as connection:
            ids = await connection.run_sync(self._due.lock, min(limit, MOST_IDS))
            if ids:
                await connection.execute(self._move, {"ids": ids})
                await connection.execute(*self._many.delete(ids))
        if ids:
            self._put()
        return len(ids)

    async def recurred(self, name: str) -> datetime:
        """See `SchedulingStore.recurred`."""
        return aware(
            await self._keeping.ensured(self._until, self._begin, {"of": name}, f"{name!r}")
        )

    async def recur(
        self, name: str, since: datetime, until: datetime, messages: Sequence[Message]
    ) -> bool:
        """See `SchedulingStore.recur`."""
        rows = [row_of(each, int(each.headers["ce-eventversion"]), AT_ONCE) for each in messages]

        def put(connection: Connection) -> bool:
            values = {"of": name, "since": since, "until": until}
            if connection.execute(self._advance, values).rowcount != 1:
                return False
            if rows:
                insert_rows(connection, self._owner, rows)
            return True

        async with begun(self._engine) as connection:
            has_put = await connection.run_sync(put)
        if has_put:
            self._put()
        return has_put


class _Due:
    """Locks what is due, and passes over what another transaction is changing.

    Who cancels has the entry of the schedule id locked first, and then the row. MariaDB and MySQL
    find what is due by another index, and lock the row before that entry, for which the removal
    then waits: a deadlock, whose error the one who cancels would get. So there the rows are looked
    for without a lock, and locked by their schedule ids.
    """

    def __init__(self, scheduled: Table, dialect: str) -> None:
        c = scheduled.c
        due, order = c.available_at <= clock(), (c.available_at, c.id)
        limit = bindparam("limit", type_=Integer(), literal_execute=True)
        # SQLite, that locks all, knows nothing of the lock.
        self._lock = (
            select(c.id).where(due).order_by(*order).limit(limit).with_for_update(skip_locked=True)
        )
        self._unhinted: Table | None = scheduled
        self._look = None
        if dialect in {"mysql", "mariadb"}:
            passed = bindparam("passed", type_=Integer(), literal_execute=True)
            self._look = select(c.schedule_id).where(due).order_by(*order).limit(limit)
            self._look = self._look.offset(passed)
            ids = bindparam("schedule_ids", type_=c.schedule_id.type, expanding=True)
            self._lock = (
                select(c.id)
                .where(c.schedule_id.in_(ids), due)
                .order_by(*order)
                .with_for_update(skip_locked=True)
            )

    def _by_schedule_id(self, connection: Connection) -> None:
        """Have the rows locked by the index of the schedule ids, whatever a migration called it."""
        table = self._unhinted
        if table is None:
            return
        for index in inspect(connection).get_indexes(table.name, table.schema):
            if index["unique"] and index["column_names"] == [table.c.schedule_id.name]:
                name = connection.dialect.identifier_preparer.quote(str(index["name"]))
                self._lock = self._lock.with_hint(table, f"FORCE INDEX ({name})")
        self._unhinted = None

    def lock(self, connection: Connection, limit: int) -> list[int]:
        """Return the ids of so many rows, of which none is anybody else's until the commit."""
        if self._look is None:
            return list(connection.execute(self._lock, {"limit": limit}).scalars())
        self._by_schedule_id(connection)
        passed = 0
        while True:
            values = {"limit": limit, "passed": passed}
            found = list(connection.execute(self._look, values).scalars())
            if not found:
                return []
            ids = list(connection.execute(self._lock, {"schedule_ids": found}).scalars())
            if ids or len(found) < limit:
                return ids
            passed += limit  # all of these are being changed; those behind them may not be


def _moving(table: Table, scheduled: Table, dialect: str) -> Any:
    """Return what inserts these scheduled rows, for each consumer where the table is a bus's."""
    c = scheduled.c
    names = [column.name for column in scheduled.columns if column.name in table.columns]
    names.remove("id")
    if dialect == "postgresql":
        these = c.id == bindparam("ids", type_=ARRAY(BigInteger())).any_()
    else:
        these = c.id.in_(bindparam("ids", type_=BigInteger(), expanding=True))
    chosen = [*(c[name] for name in names), literal(0)]
    to = [*names, "attempts"]
    order = [c.available_at, c.id]
    fan_out = fan_out_of(table)
    if fan_out is None:
        return insert(table).from_select(to, select(*chosen).where(these).order_by(*order))
    of = fan_out.consumers.c
    found = select(*chosen, of.id).where(these, of.topic == c.topic).order_by(*order, of.id)
    return insert(table).from_select([*to, "consumer_id"], found)
