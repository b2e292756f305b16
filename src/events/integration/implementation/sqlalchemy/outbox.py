"""`SQLAlchemyOutbox`: put events into the transaction of a session or a connection."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache, partial

import msgspec
from sqlalchemy import Connection, Table, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

from events.errors import InvalidTopologyError
from events.integration.event import IntegrationEvent
from events.integration.implementation.sqlalchemy._buffer import SessionBuffer
from events.integration.implementation.sqlalchemy._schedules import Schedules, stored_time
from events.integration.implementation.sqlalchemy._wakeup import nudge
from events.integration.implementation.sqlalchemy.tables import (
    AT_ONCE,
    Row,
    default_table,
    insert_rows,
    require_table,
)
from events.integration.limits import check_body_size, check_headers_size
from events.integration.message import Message
from events.integration.observation import current_observer
from events.integration.outbox import ScheduledEvent, partition_of
from events.integration.outbox.accepting import check_schedule, check_storable
from events.integration.serialization import Serializer
from events.integration.topology import Topic

_encode_json = msgspec.json.Encoder().encode
_serializer = cache(Serializer)
_NUDGES = "events.outbox.nudges"


class SQLAlchemyOutbox:
    """Store events in the transaction of a session or connection, which you own.

    On an `AsyncSession`, the commit writes the rows, in one statement after the flush: `flush` does
    not write them, and a rollback, also to a savepoint, drops the rows put since then. On a Core
    `AsyncConnection`, they are written immediately. An outbox is as cheap as a tuple: make one for
    each unit of work.

    Args:
        session: An `AsyncSession`, an `async_scoped_session` or an `AsyncConnection`.
        table: The result of `outbox_table`, if it has another name or a schema.
        source: The name of this service, the CloudEvents attribute `source`.
        max_body_size: The maximum size in bytes: `put` raises for a larger body.
        check_events: As in `BusOptions`: `put` refuses an event that no consumer could decode.
    """

    def __init__(
        self,
        session: AsyncSession | async_scoped_session[AsyncSession] | AsyncConnection,
        *,
        table: Table | None = None,
        source: str = "/events",
        max_body_size: int = 1 << 20,
        check_events: bool = True,
    ) -> None:
        target: object = session() if isinstance(session, async_scoped_session) else session
        if not isinstance(target, (AsyncSession, AsyncConnection)):
            raise TypeError(
                f"SQLAlchemyOutbox needs an AsyncSession or an AsyncConnection, "
                f"not {type(target).__name__}: "
                f"from sqlalchemy.ext.asyncio import AsyncSession"
            )
        if table is not None:
            require_table(table)
        self._target = target
        self._table = default_table() if table is None else table
        self._serializer = _serializer(source, check_events=check_events)
        self._max_body_size = max_body_size

    @property
    def _schedules(self) -> Schedules:
        return Schedules(self._target, self._table)

    async def put(
        self,
        topic: Topic,
        event: IntegrationEvent,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        available_at: datetime | None = None,
        schedule_id: str | None = None,
        replace: bool = False,
    ) -> str:
        """See `Outbox.put`. On a session it does not use the database.

        The commit of a session writes the row; a query does not see it before. With a
        `schedule_id`, it is written immediately, because the database decides whether the id is
        free.

        A missing table raises `OutboxTableError`: on a connection here, on a session in its commit,
        which then rolls back.
        """
        check_schedule(schedule_id, available_at, replace=replace)
        row = self._row(topic, event, key, headers, available_at)
        if schedule_id is not None:
            await self._schedules.put(schedule_id, row, replace=replace)
            if isinstance(self._target, AsyncSession):
                session = self._target.sync_session
                SessionBuffer.of(session).note(session, row)
        elif isinstance(self._target, AsyncSession):
            session = self._target.sync_session
            SessionBuffer.of(session).add(session, self._table, row)
        else:
            await self._target.run_sync(_write_now, self._table, row)
        event_id: str = row["event_id"]
        return event_id

    async def cancel(self, schedule_id: str) -> bool:
        """See `Outbox.cancel`. It waits for other transactions that change the same event."""
        return await self._schedules.cancel(schedule_id)

    async def reschedule(self, schedule_id: str, when: datetime) -> bool:
        """See `Outbox.reschedule`. It waits for other transactions that change the same event."""
        return await self._schedules.reschedule(schedule_id, when)

    async def scheduled(
        self,
        *,
        topic: Topic | str | None = None,
        prefix: str | None = None,
        before: datetime | None = None,
        limit: int = 100,
        after: int | None = None,
    ) -> list[ScheduledEvent]:
        """See `Outbox.scheduled`."""
        return await self._schedules.scheduled(
            topic=topic, prefix=prefix, before=before, limit=limit, after=after
        )

    def _row(
        self,
        topic: Topic,
        event: IntegrationEvent,
        key: str | None,
        headers: Mapping[str, str] | None,
        available_at: datetime | None,
    ) -> Row:
        if not isinstance(topic, Topic):
            raise InvalidTopologyError(repr(topic), "not a Topic; write Topic('users')")
        message = self._serializer.encode(topic.name, event, key=key, headers=headers)
        observer = current_observer()
        if observer is not None:
            message = observer.created(message)
            check_headers_size(message)
        check_body_size(message, self._max_body_size)
        check_storable(message)
        at = AT_ONCE if available_at is None else stored_time("available_at", available_at)
        return row_of(message, event.version, at)


def row_of(message: Message, version: int, available_at: datetime) -> Row:
    """Return the columns of a message."""
    return {
        "event_id": message.id,
        "topic": message.topic,
        "key": message.key,
        "partition_id": partition_of(message.key, message.id),
        "type": message.type,
        "version": version,
        "headers": _encode_json(message.headers).decode(),
        "body": message.body,
        "created_at": datetime.now(UTC),
        "available_at": available_at,
    }


def _write_now(connection: Connection, table: Table, row: Row) -> None:
    insert_rows(connection, table, [row])
    nudges = connection.info.setdefault(_NUDGES, {})  # of this connection to the database
    if table not in nudges:
        nudges[table] = partial(_nudge, table=table)
    if not event.contains(connection, "commit", nudges[table]):
        event.listen(connection, "commit", nudges[table])


def _nudge(connection: Connection, *, table: Table) -> None:
    nudge(connection.engine, table)
