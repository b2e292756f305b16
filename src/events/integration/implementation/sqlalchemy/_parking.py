"""The table of parked rows: what could not be sent, until it is redriven or discarded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import (
    Connection,
    Integer,
    String,
    Text,
    bindparam,
    delete,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from events.errors import OutboxError
from events.integration.implementation.sqlalchemy._clock import aware, clock, moment
from events.integration.implementation.sqlalchemy._opening import begun, connected
from events.integration.implementation.sqlalchemy._reading import message_of
from events.integration.implementation.sqlalchemy.tables import AT_ONCE, MOST_IDS, Tables
from events.integration.outbox import Parked, ParkedRow

_NO_ROW = -1
_MESSAGE = (
    "event_id",
    "topic",
    "key",
    "partition_id",
    "type",
    "version",
    "headers",
    "body",
    "created_at",
)


class Parking:
    """The parked rows of one outbox. Each verb is one transaction."""

    def __init__(self, engine: AsyncEngine, tables: Tables) -> None:
        self._engine = engine
        self._outbox, self._parked = outbox, parked = tables.outbox, tables.parked
        row = outbox.c.id == bindparam("row")
        self._park = insert(parked).from_select(
            ["id", *_MESSAGE, "attempts", "last_error", "reason", "parked_at"],
            select(
                outbox.c.id,
                *(outbox.c[name] for name in _MESSAGE),
                bindparam("attempts_", type_=Integer()),
                bindparam("error", type_=Text()),
                bindparam("reason_", type_=String()),
                clock(),
            ).where(row),
        )
        self._remove = delete(outbox).where(row)
        p = parked.c
        self._select = select(
            p.id,
            p.event_id,
            p.topic,
            p.key,
            p.type,
            p.headers,
            p.body,
            p.reason,
            p.last_error,
            p.attempts,
            p.created_at,
            p.parked_at,
        ).order_by(p.id)

    async def park(self, rows: Sequence[Parked]) -> None:
        """See `OutboxStore.park`."""
        async with begun(self._engine) as connection:
            await connection.execute(
                self._park,
                [
                    {"row": r.id, "attempts_": r.attempts, "error": r.error, "reason_": r.reason}
                    for r in rows
                ],
            )
            await connection.execute(self._remove, [{"row": row.id} for row in rows])

    async def parked(self, *, limit: int, after: int | None) -> Sequence[ParkedRow]:
        """See `OutboxStore.parked`."""
        query = self._select.limit(limit)
        if after is not None:
            query = query.where(self._parked.c.id > after)
        async with connected(self._engine) as connection:
            found = (await connection.execute(query)).all()
        rows: list[ParkedRow] = []
        for *message, reason, error, attempts, created_at, parked_at in found:
            rows.append(
                ParkedRow(
                    message[0],
                    message_of(*message[1:])[0],
                    reason,
                    error or "",
                    attempts,
                    aware(created_at),
                    aware(parked_at),
                )
            )
        return rows

    async def check(self) -> None:
        """Park a row that there is none of: an error if the database's user may not.

        Raises `OutboxError` for missing rights, which would only show when a row is to be parked.
        """
        try:
            await self.park([Parked(_NO_ROW, "", "", 0)])
        except DBAPIError as error:
            if "denied" not in str(error.orig):
                raise
            raise OutboxError(
                f"the database's user may not move rows from {self._outbox.fullname!r} to "
                f"{self._parked.fullname!r}: {error.orig}; grant SELECT, INSERT, UPDATE and DELETE "
                f"on both, and on {self._outbox.fullname}_relays"
            ) from error

    async def redrive(self, ids: Sequence[int]) -> Sequence[int]:
        """See `OutboxStore.redrive`."""
        async with begun(self._engine) as connection:
            return await connection.run_sync(self._take_all, ids, back=True)

    async def discard(self, ids: Sequence[int]) -> Sequence[int]:
        """See `OutboxStore.discard`."""
        async with begun(self._engine) as connection:
            return await connection.run_sync(self._take_all, ids, back=False)

    def _take_all(self, connection: Connection, ids: Sequence[int], *, back: bool) -> list[int]:
        # In order, so that they leave as they were put, and two who take the same do not deadlock.
        rest, found = sorted(set(ids)), list[int]()
        while rest:
            found += self._take(connection, rest[:MOST_IDS], back=back)
            del rest[:MOST_IDS]
        return found

    def _take(self, connection: Connection, ids: Sequence[int], *, back: bool) -> Sequence[int]:
        p = self._parked.c
        these = p.id.in_(ids)
        # Locked first: who asks for the same rows at the same time must not find them afterwards.
        connection.execute(update(self._parked).where(these).values(attempts=p.attempts))
        found = list(connection.execute(select(p.id).where(these).order_by(p.id)).scalars())
        if back and found:
            connection.execute(
                insert(self._outbox).from_select(
                    [*_MESSAGE, "attempts", "available_at"],
                    select(*(p[name] for name in _MESSAGE), literal(0), literal(AT_ONCE, moment()))
                    .where(these)
                    .order_by(p.id),
                )
            )
        connection.execute(delete(self._parked).where(these))
        return found

    async def purge(self, older_than: timedelta, *, limit: int) -> int:
        """See `OutboxStore.purge`."""
        p = self._parked.c
        async with begun(self._engine) as connection:
            now = aware((await connection.execute(select(clock()))).scalar_one())
            old = select(p.id).where(p.parked_at < now - older_than).order_by(p.id).limit(limit)
            ids = list((await connection.execute(old)).scalars())
            if ids:
                await connection.execute(delete(self._parked).where(p.id.in_(ids)))
        return len(ids)
