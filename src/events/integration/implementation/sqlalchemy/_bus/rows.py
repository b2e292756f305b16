"""The rows that wait for consumers: written, found, and settled."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import (
    BigInteger,
    Connection,
    Integer,
    String,
    Text,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from events.errors import OutboxError
from events.integration.implementation.sqlalchemy._bus.sharing import Seat
from events.integration.implementation.sqlalchemy._bus.tables import MESSAGE, BusTables
from events.integration.implementation.sqlalchemy._clock import aware, clock, moment
from events.integration.implementation.sqlalchemy._many import Many
from events.integration.implementation.sqlalchemy._opening import begun, connected
from events.integration.implementation.sqlalchemy._reading import message_of
from events.integration.implementation.sqlalchemy.tables import (
    AT_ONCE,
    MOST_IDS,
    Row,
    insert_rows,
)
from events.integration.message import Message
from events.integration.outbox import partition_of

__all__ = ["Found", "Postponed", "Refused", "Rows"]

_HIGHEST = (1 << 63) - 1  # no row has this id
_encode_json = msgspec.json.Encoder().encode


class Found(Struct, frozen=True):
    """A row that is due. `fault` says what is wrong with it, if it cannot be handed over."""

    id: int
    partition: int
    message: Message
    attempts: int
    was_postponed: bool
    fault: OutboxError | None = None
    is_marked: bool = False
    """Whether the table counts this attempt already."""


class Postponed(Struct, frozen=True):
    """A row that is to be delivered again, in `after` seconds."""

    id: int
    after: float
    attempts: int


class Refused(Struct, frozen=True):
    """A row that is to be a dead letter."""

    id: int
    reason: str
    error: str
    attempts: int


def _message_row(message: Message) -> Row:
    """Return the columns of a message."""
    return {
        "event_id": message.id,
        "topic": message.topic,
        "key": message.key,
        "partition_id": partition_of(message.key, message.id),
        "type": message.type,
        "headers": _encode_json(message.headers).decode(),
        "body": message.body,
        "created_at": datetime.now(UTC),
        "available_at": AT_ONCE,
    }


class Rows:
    """The rows of one bus. Each verb is one transaction."""

    def __init__(self, engine: AsyncEngine, single: AsyncEngine, tables: BusTables) -> None:
        """Take an engine whose transactions see what was committed, and one for one statement."""
        self._engine = engine
        self._single = single
        self._tables = tables
        self._many = Many(engine, tables.rows)
        r, m = tables.rows.c, tables.members.c
        size = func.length if engine.dialect.name == "sqlite" else func.octet_length
        self._size = size(r.body, type_=BigInteger())
        these = bindparam("ids", type_=BigInteger(), expanding=True)
        self._bodies = select(r.id, r.body).where(r.id.in_(these))
        self._mine = exists().where(
            m.member == bindparam("member"),
            m.token == bindparam("token"),
            m.expires_at > clock(),
        )
        after = bindparam("after", type_=BigInteger())
        if engine.dialect.name == "postgresql":
            # Of equations it takes those that leave much for a walk along the primary key, past all
            # that is not due, and those that leave little, as of a table that was not analyzed
            # yet, for a sort. Two ends of rows are neither.
            place, at_once = tuple_(r.consumer_id, r.available_at, r.id), literal(AT_ONCE, moment())
            consumer = bindparam("consumer", type_=Integer())
            end = place <= tuple_(consumer, at_once, literal(_HIGHEST, BigInteger()))
            self._at_once = self._half(end, place >= tuple_(consumer, at_once, literal(0)))
            self._on = self._half(end, place > tuple_(consumer, at_once, after))
        else:
            mine = r.consumer_id == bindparam("consumer")
            self._at_once = self._half(mine, r.available_at == AT_ONCE)
            self._on = self._half(mine, r.available_at == AT_ONCE, r.id > after)
        self._postponed = self._half(
            r.consumer_id == bindparam("consumer"),
            r.available_at > AT_ONCE,
            r.available_at <= clock(),
        )
        row = r.id == bindparam("row")
        self._postpone = (
            update(tables.rows)
            .where(row)
            .values(available_at=bindparam("then"), attempts=bindparam("attempts_"))
        )
        c = tables.consumers.c
        self._bury = insert(tables.dead_letters).from_select(
            ["consumer_id", "consumer", *MESSAGE, "attempts", "reason", "error", "died_at"],
            select(
                r.consumer_id,
                c.consumer,
                *(r[name] for name in MESSAGE),
                bindparam("attempts_", type_=Integer()),
                bindparam("reason_", type_=String()),
                bindparam("error_", type_=Text()),
                clock(),
            ).where(row, c.id == r.consumer_id),
        )
        self._remove = delete(tables.rows).where(row)
        self._mark = update(tables.rows).where(row).values(attempts=r.attempts + 1)

    # --- consumers and publishing ---------------------------------------------------------------

    async def consumer(self, topic: str, consumer: str) -> int:
        """Return the number of this consumer of this topic, which gets what is sent from now on."""
        c = self._tables.consumers.c
        number = select(c.id).where(c.topic == topic, c.consumer == consumer)
        while True:
            async with connected(self._single) as connection:
                found = (await connection.execute(number)).scalar_one_or_none()
            if found is not None:
                return int(found)
            try:
                async with begun(self._engine) as connection:
                    values = {"topic": topic, "consumer": consumer}
                    await connection.execute(insert(self._tables.consumers), values)
            except IntegrityError:  # another process has made it meanwhile
                continue

    def write(self, connection: Connection, messages: Sequence[Message]) -> None:
        """Write messages in the connection's transaction, a row for each consumer."""
        insert_rows(connection, self._tables.rows, [_message_row(each) for each in messages])

    # --- reading --------------------------------------------------------------------------------

    def _half(self, *where: Any) -> Any:
        r = self._tables.rows.c
        longest = bindparam("longest", type_=BigInteger())
        return (
            select(
                r.id,
                r.partition_id,
                r.event_id,
                r.topic,
                r.key,
                r.type,
                r.headers,
                case((self._size <= longest, r.body)).label("body"),
                self._size.label("size"),
                r.attempts,
            )
            .where(
                *where,
                bindparam("partitions", type_=BigInteger())
                .bitwise_rshift(r.partition_id)
                .bitwise_and(1)
                != 0,
                self._mine,
            )
            .order_by(r.consumer_id, r.available_at, r.id)
            .limit(bindparam("limit", type_=Integer(), literal_execute=True))
        )

    async def due(
        self,
        seat: Seat,
        consumer: int,
        partitions: int,
        *,
        limit: int,
        max_bytes: int,
        after: int | None = None,
        known: Collection[int],
    ) -> tuple[list[Found], bool]:
        """Return what is due in these partitions, and whether there is more.

        A scan, without `after`, reads from the beginning, past what is known, and what was
        postponed as well. No more than these bytes of bodies is returned, but one row in any case.
        """
        longest = max_bytes // limit
        values: dict[str, Any] = {
            "member": seat.member,
            "token": seat.token,
            "consumer": consumer,
            "partitions": partitions,
            "longest": longest,
        }
        async with connected(self._single) as connection:
            if after is not None:
                values |= {"after": after, "limit": limit}
                found = [(r, False) for r in (await connection.execute(self._on, values)).all()]
                is_full = len(found) >= limit
                found = [(r, late) for r, late in found if r.id not in known]
            else:
                values["limit"] = limit + len(known)
                late = (await connection.execute(self._postponed, values)).all()
                first = (await connection.execute(self._at_once, values)).all()
                is_full = max(len(late), len(first)) >= values["limit"]
                half = [r for r in late if r.id not in known]
                rest = [r for r in first if r.id not in known]
                share = max(limit - len(rest), (limit + 1) // 2)
                is_full = is_full or len(half) + len(rest) > limit
                found = [(r, True) for r in half[:share]]
                found += [(r, False) for r in rest[: limit - len(found)]]
            rows, weight = list[tuple[Any, bool]](), 0
            for r, was_postponed in found:
                if rows and weight + r.size > max_bytes:
                    is_full = True
                    break
                weight += r.size
                rows.append((r, was_postponed))
            bodies = await self._long(connection, [r.id for r, _ in rows if r.size > longest])
        due = list[Found]()
        for r, was_postponed in rows:
            if r.size > longest and r.id not in bodies:
                continue  # somebody has deleted it by hand
            body = bodies[r.id] if r.size > longest else r.body
            message, fault = message_of(r.event_id, r.topic, r.key, r.type, r.headers, body)
            due.append(Found(r.id, r.partition_id, message, r.attempts, was_postponed, fault))
        return due, is_full

    async def _long(self, connection: AsyncConnection, ids: Sequence[int]) -> dict[int, object]:
        if not ids:
            return {}
        found = await connection.execute(self._bodies, {"ids": ids})
        return {row.id: row.body for row in found}

    async def waiting(self, consumers: Mapping[int, int]) -> set[int]:
        """Return which of these consumers have something due in these partitions."""
        r = self._tables.rows.c
        due = [
            exists().where(
                r.consumer_id == consumer,
                r.available_at <= clock(),
                literal(partitions, BigInteger()).bitwise_rshift(r.partition_id).bitwise_and(1)
                != 0,
            )
            for consumer, partitions in consumers.items()
        ]
        async with connected(self._single) as connection:
            found = (await connection.execute(select(*due))).one()
        return {consumer for consumer, is_due in zip(consumers, found, strict=True) if is_due}

    # --- settling -------------------------------------------------------------------------------

    async def settle(self, done: Sequence[int], postponed: Sequence[Postponed]) -> None:
        """Remove what was handled, and have the rest be due later."""
        async with begun(self._engine) as connection:
            for start in range(0, len(done), MOST_IDS):
                await connection.execute(*self._many.delete(done[start : start + MOST_IDS]))
            if postponed:
                now = aware((await connection.execute(select(clock()))).scalar_one())
                changes = [
                    {
                        "row": row.id,
                        "then": now + timedelta(seconds=row.after),
                        "attempts_": row.attempts,
                    }
                    for row in postponed
                ]
                await connection.execute(self._postpone, changes)

    async def mark(self, row: int) -> None:
        """Count the attempt that is about to begin, in case it ends the process."""
        async with begun(self._engine) as connection:
            await connection.execute(self._mark, {"row": row})

    async def bury(self, rows: Sequence[Refused]) -> None:
        """Move rows to the dead letters."""
        async with begun(self._engine) as connection:
            await connection.execute(
                self._bury,
                [
                    {
                        "row": row.id,
                        "attempts_": row.attempts,
                        "reason_": row.reason,
                        "error_": row.error.replace("\0", "\N{REPLACEMENT CHARACTER}"),
                    }
                    for row in rows
                ],
            )
            await connection.execute(self._remove, [{"row": row.id} for row in rows])
