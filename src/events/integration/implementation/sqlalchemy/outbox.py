"""`SQLAlchemyOutbox`: put events into the transaction of a session or a connection."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache, partial

import msgspec
from sqlalchemy import Connection, Table, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

from events.errors import InvalidTopologyError, OutboxError
from events.integration.event import IntegrationEvent
from events.integration.implementation.sqlalchemy._buffer import SessionBuffer
from events.integration.implementation.sqlalchemy._wakeup import nudge
from events.integration.implementation.sqlalchemy.tables import (
    AT_ONCE,
    LONGEST_NAME,
    Row,
    default_table,
    insert_rows,
    require_table,
)
from events.integration.limits import check_size
from events.integration.observation import current_observer
from events.integration.outbox import partition_of
from events.integration.serialization import Serializer
from events.integration.topology import Topic

__all__ = ["SQLAlchemyOutbox"]

_encode_json = msgspec.json.Encoder().encode
_serializer = cache(Serializer)
_NUDGES = "events.outbox.nudges"


class SQLAlchemyOutbox:
    """Store events in the transaction of the session or connection given, which stays yours.

    On an `AsyncSession` the rows wait for the commit, in one statement after the flush: `flush`
    does not write them, and a rollback, to a savepoint too, drops exactly its own. On a Core
    `AsyncConnection` they are written at once. An outbox is as cheap as a tuple: make one for each
    unit of work.

    Args:
        session: An `AsyncSession`, an `async_scoped_session` or an `AsyncConnection`.
        table: What `outbox_table` returned, if it was given a name or a schema.
        source: This service, as the CloudEvents attribute `source`.
        max_body_size: Bytes; a larger body is refused by `put`, before it can harm the commit.
    """

    def __init__(
        self,
        session: AsyncSession | async_scoped_session[AsyncSession] | AsyncConnection,
        *,
        table: Table | None = None,
        source: str = "/events",
        max_body_size: int = 1 << 20,
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
        self._serializer = _serializer(source)
        self._max_body_size = max_body_size

    async def put(
        self,
        topic: Topic,
        event: IntegrationEvent,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        available_at: datetime | None = None,
    ) -> str:
        """See `Outbox.put`. On a session it neither waits nor fails for the database's sake.

        The row of a session is written by its commit, not before: a query sees none until then.

        A missing table is an `OutboxTableError`: from here on a connection, from the commit on a
        session, which then rolls back.
        """
        row = self._row(topic, event, key, headers, available_at)
        if isinstance(self._target, AsyncSession):
            session = self._target.sync_session
            SessionBuffer.of(session).add(session, self._table, row)
        else:
            await self._target.run_sync(_write_now, self._table, row)
        event_id: str = row["event_id"]
        return event_id

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
        check_size(message, self._max_body_size)
        if len(message.type) > LONGEST_NAME or (key is not None and len(key) > LONGEST_NAME):
            raise OutboxError(
                f"{message.type!r} with key {key!r}: the outbox holds types and keys of up to "
                f"{LONGEST_NAME} characters; use a hash of a longer key"
            )
        if key is not None and "\0" in key:  # PostgreSQL would refuse it, and too late
            raise OutboxError(f"{message.type!r}: a key cannot have a NUL character: {key!r}")
        if available_at is not None:
            if not isinstance(available_at, datetime):
                raise TypeError(f"available_at must be a datetime, not {available_at!r}")
            if available_at.tzinfo is None:
                raise ValueError(f"available_at has no time zone: {available_at!r}; use UTC")
            available_at = max(available_at.astimezone(UTC), AT_ONCE)
        return {
            "event_id": message.id,
            "topic": message.topic,
            "key": key,
            "partition_id": partition_of(key, message.id),
            "type": message.type,
            "version": event.version,
            "headers": _encode_json(message.headers).decode(),
            "body": message.body,
            "created_at": datetime.now(UTC),
            "available_at": available_at or AT_ONCE,
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
