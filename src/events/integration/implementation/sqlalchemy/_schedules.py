"""Events that wait under a schedule id: put, cancelled, rescheduled, and listed by their owner.

All in the caller's transaction, and at once, also on a session: each says what came of it. The
table has a unique index, and a transaction that changes a row locks it until its end, so two
who want the same come one after the other, and the second sees what the first has committed.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, Insert, Table, delete, event, insert, select, update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from events.errors import OutboxTableError, ScheduleIdTakenError
from events.integration.implementation.sqlalchemy._clock import aware
from events.integration.implementation.sqlalchemy._routing import writing_connection
from events.integration.implementation.sqlalchemy._wakeup import nudge_timekeepers
from events.integration.implementation.sqlalchemy.tables import (
    AT_ONCE,
    CURE,
    Row,
    companion,
    fan_out_of,
    insert_into,
    is_of_the_table,
)
from events.integration.outbox import ScheduledEvent
from events.integration.outbox.accepting import check_schedule_id, in_utc
from events.integration.paging import check_limit
from events.integration.topology import Topic

T = TypeVar("T")

_HIGHEST = "\U0010ffff"  # above each other character


def stored_time(name: str, given: object) -> datetime:
    """Return a time as the tables hold it; raise for one without a zone."""
    return max(in_utc(name, given), AT_ONCE)


class Schedules:
    """The scheduled events of one outbox or bus, in the transaction of a session or connection."""

    def __init__(self, target: AsyncSession | AsyncConnection, table: Table) -> None:
        self._target = target
        self._owner = table
        self._table = companion(table, "scheduled")

    async def put(self, schedule_id: str, row: Row, *, replace: bool) -> None:
        """Schedule an event under a checked id, whose row is as `put` makes it."""
        values = {"schedule_id": schedule_id, **row}

        def write(connection: Connection) -> bool:
            _wake_at_commit(connection)
            if replace:
                connection.execute(_replacing(connection.dialect.name, self._table), values)
                return True
            return _insert(connection, self._table, values)

        if not await self._do(write):
            raise ScheduleIdTakenError(schedule_id)

    async def cancel(self, schedule_id: str) -> bool:
        """See `Outbox.cancel`."""
        check_schedule_id(schedule_id)
        cancel = delete(self._table).where(self._table.c.schedule_id == schedule_id)
        return await self._do(lambda connection: connection.execute(cancel).rowcount > 0)

    async def reschedule(self, schedule_id: str, when: datetime) -> bool:
        """See `Outbox.reschedule`."""
        check_schedule_id(schedule_id)
        change = (
            update(self._table)
            .where(self._table.c.schedule_id == schedule_id)
            .values(available_at=stored_time("when", when))
        )

        def write(connection: Connection) -> bool:
            _wake_at_commit(connection)
            return connection.execute(change).rowcount > 0

        return await self._do(write)

    async def scheduled(
        self,
        *,
        topic: Topic | str | None,
        prefix: str | None,
        before: datetime | None,
        limit: int,
        after: int | None,
    ) -> list[ScheduledEvent]:
        """See `Outbox.scheduled`."""
        check_limit("scheduled events", limit)
        c = self._table.c
        query = select(
            c.id, c.schedule_id, c.event_id, c.topic, c.type, c.key, c.available_at
        ).order_by(c.id)
        if after is not None:
            query = query.where(c.id > after)
        if topic is not None:
            query = query.where(c.topic == (topic.name if isinstance(topic, Topic) else topic))
        if prefix:
            # Not LIKE, which SQLite answers without the index, and by letters of either case.
            query = query.where(c.schedule_id >= prefix, c.schedule_id < prefix + _HIGHEST)
        if before is not None:
            query = query.where(c.available_at < stored_time("before", before))
        found = await self._do(lambda connection: connection.execute(query.limit(limit)).all())
        return [
            ScheduledEvent(
                id=row.id,
                schedule_id=row.schedule_id,
                event_id=row.event_id,
                topic=row.topic,
                type=row.type,
                key=row.key,
                available_at=aware(row.available_at),
            )
            for row in found
        ]

    async def _do(self, work: Callable[[Connection], T]) -> T:
        """Do this on the connection to which the session writes, so in its transaction."""

        def do(connection: Connection) -> T:
            try:
                return work(connection)
            except DBAPIError as error:
                if is_of_the_table(error):
                    fan_out = fan_out_of(self._owner)
                    cure = CURE if fan_out is None else fan_out.cure
                    raise OutboxTableError(self._table.fullname, f"{error.orig}; {cure}") from error
                raise

        if isinstance(self._target, AsyncConnection):
            return await self._target.run_sync(do)
        clause = insert_into(self._owner)
        return await self._target.run_sync(lambda session: do(writing_connection(session, clause)))


def _wake_at_commit(connection: Connection) -> None:
    if not event.contains(connection, "commit", nudge_timekeepers):
        event.listen(connection, "commit", nudge_timekeepers)


def _insert(connection: Connection, table: Table, values: dict[str, Any]) -> bool:
    """Insert a row; return whether no other has its schedule id."""
    dialect = connection.dialect.name
    if dialect in {"postgresql", "sqlite"}:  # an error would end the transaction on PostgreSQL
        make = postgresql.insert if dialect == "postgresql" else sqlite.insert
        statement = make(table).inline().on_conflict_do_nothing(index_elements=["schedule_id"])
        # Of an insert SQLAlchemy keeps the count only if asked.
        kept = {"preserve_rowcount": True}
        return connection.execute(statement, values, execution_options=kept).rowcount > 0
    try:
        connection.execute(insert(table).inline(), values)
    except IntegrityError:
        # No other constraint is there to fail; the statement alone is undone.
        return False
    return True


def _replacing(dialect: str, table: Table) -> Insert:
    names = [column.name for column in table.columns if column.name not in {"id", "schedule_id"}]
    if dialect in {"mysql", "mariadb"}:
        upsert = mysql.insert(table)
        return upsert.on_duplicate_key_update({name: upsert.inserted[name] for name in names})
    other = (postgresql.insert if dialect == "postgresql" else sqlite.insert)(table)
    return other.on_conflict_do_update(
        index_elements=["schedule_id"], set_={name: other.excluded[name] for name in names}
    )
