"""The rows that wait for consumers: written, found, and settled."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

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
    literal_column,
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
from events.integration.implementation.sqlalchemy._keeping import Keeping, cannot_keep
from events.integration.implementation.sqlalchemy._many import Many
from events.integration.implementation.sqlalchemy._opening import begun, connected
from events.integration.implementation.sqlalchemy._reading import read_row, reading_due
from events.integration.implementation.sqlalchemy.outbox import row_of
from events.integration.implementation.sqlalchemy.tables import (
    AT_ONCE,
    MOST_IDS,
    insert_rows,
)
from events.integration.message import Delivery, Message

_NO_TOPIC = ""  # which no topic is called
_HIGHEST = (1 << 63) - 1  # no row has this id
_ID, _SIZE = 0, 7  # where a row that is due has them; by name it takes ten times as long


class Found(Delivery, frozen=True, gc=False, kw_only=True):
    """A row that is due, as it is handed over.

    `fault` says what is wrong with it, if it cannot be.
    """

    row: int
    partition: int
    was_postponed: bool
    fault: OutboxError | None = None
    is_marked: bool = False
    """Whether the table counts this delivery among the crashes, until it is settled."""


class Postponed(Struct, frozen=True):
    """A row that is to be delivered again, in `after` seconds."""

    id: int
    after: float
    attempts: int
    crashes: int = 0


class Refused(Struct, frozen=True):
    """A row that is to be a dead letter, and what it is to be if that cannot be."""

    id: int
    reason: str
    error: str
    attempts: int
    otherwise: Postponed


def _fitting(rows: Sequence[Any], max_bytes: int) -> int:
    """Return how many of these come to no more than so many bytes; one does in any case."""
    weight = 0
    for index, row in enumerate(rows):
        weight += row[_SIZE]
        if index and weight > max_bytes:
            return index
    return len(rows)


def _found(
    rows: Sequence[Any],
    consumer: str,
    postponed: int,
    bodies: Mapping[int, object],
    too_long: Collection[int],
) -> Iterator[Found]:
    """Make deliveries of rows, the first so many of which had been postponed."""
    for index, row in enumerate(rows):
        number, partition, event_id, topic, key, headers, body, _, attempts, crashes = row
        if number in too_long:
            if number not in bodies:
                continue  # it was deleted by hand
            body = bodies[number]
        decoded, body, fault = read_row(headers, body)
        was_postponed = index < postponed
        yield Found(
            topic,
            consumer,
            event_id,
            body,
            decoded,
            attempts + 1,
            key,
            crashes,
            was_postponed and not attempts,
            row=number,
            partition=partition,
            was_postponed=was_postponed,
            fault=fault,
        )


class Rows:
    """The rows of one bus. Each verb is one transaction."""

    def __init__(self, engine: AsyncEngine, single: AsyncEngine, tables: BusTables) -> None:
        """Take an engine whose transactions see what was committed, and one for one statement."""
        self.system = engine.dialect.name  # as observers call it
        self._engine = engine
        self._single = single
        self._tables = tables
        self._many = Many(engine, tables.rows)
        self._keeping = Keeping(engine, single, tables.consumers)
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
            .values(
                available_at=bindparam("then"),
                attempts=bindparam("attempts_"),
                crashes=bindparam("crashes_"),
            )
        )
        c = tables.consumers.c
        self._to_dead_letters = insert(tables.dead_letters).from_select(
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
        marked = bindparam("crashes_", type_=Integer())
        self._mark = update(tables.rows).where(row, r.crashes < marked).values(crashes=marked)

    # --- consumers and publishing ---------------------------------------------------------------

    async def consumer(self, topic: str, consumer: str) -> int:
        """Return the number of this consumer of this topic, which gets what is sent from now on."""
        c = self._tables.consumers.c
        number = select(c.id).where(
            c.topic == bindparam("topic"), c.consumer == bindparam("consumer")
        )
        make, values = insert(self._tables.consumers), {"topic": topic, "consumer": consumer}
        row = f"consumer {consumer!r} of topic {topic!r}"
        return int(await self._keeping.ensured(number, make, values, row))

    async def paused(self, consumers: Collection[str]) -> frozenset[str]:
        """Return which of these are paused: there is a row of them without a topic."""
        c = self._tables.consumers.c
        query = select(c.consumer).where(c.topic == _NO_TOPIC, c.consumer.in_(consumers))
        async with connected(self._single) as connection:
            return frozenset((await connection.execute(query)).scalars())

    async def set_paused(self, consumer: str, *, paused: bool) -> bool:
        """Add that row or remove it; tell whether that changed anything."""
        c = self._tables.consumers.c
        mark = {"topic": _NO_TOPIC, "consumer": consumer}
        try:
            async with begun(self._engine) as connection:
                if paused:
                    await connection.execute(insert(self._tables.consumers), mark)
                    return True
                these = (c.topic == _NO_TOPIC) & (c.consumer == consumer)
                removed = await connection.execute(delete(self._tables.consumers).where(these))
                return removed.rowcount > 0
        except IntegrityError as error:
            if await self.paused([consumer]):  # it was there already
                return False
            mark_of = f"the mark that {consumer!r} is paused"
            raise cannot_keep(self._tables.consumers, mark_of, error) from error

    def write(self, connection: Connection, messages: Sequence[Message]) -> None:
        """Write messages in the connection's transaction, a row for each consumer."""
        # Its table has no version; `insert_rows` leaves it out.
        rows = [row_of(each, 0, AT_ONCE) for each in messages]
        insert_rows(connection, self._tables.rows, rows)

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
                r.headers,
                case((self._size <= longest, r.body)).label("body"),
                self._size.label("size"),
                r.attempts,
                r.crashes,
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
        consumer: tuple[int, str],
        partitions: int,
        *,
        limit: int,
        max_bytes: int,
        after: int | None = None,
        known: Collection[int],
        is_backlog: bool = False,
    ) -> tuple[list[Found], bool]:
        """Return what is due for this consumer in these partitions, and whether there is more.

        The consumer is its number and its name. `is_backlog` says that there is likely to be more.
        A scan, without `after`, reads from the beginning, past what is known, and what was
        postponed as well. No more than these bytes of bodies is returned, but one row in any case.
        """
        longest = max_bytes // limit
        values: dict[str, Any] = {
            "member": seat.member,
            "token": seat.token,
            "consumer": consumer[0],
            "partitions": partitions,
            "longest": longest,
        }
        late = list[Any]()
        engine, single = self._engine, self._single
        async with reading_due(engine, single, limit, is_backlog=is_backlog) as connection:
            if after is not None:
                values |= {"after": after, "limit": limit}
                first = (await connection.execute(self._on, values)).all()
                is_full = len(first) >= limit
                rest = [row for row in first if row[_ID] not in known]
            else:
                values["limit"] = limit + len(known)
                late = list((await connection.execute(self._postponed, values)).all())
                first = (await connection.execute(self._at_once, values)).all()
                is_full = max(len(late), len(first)) >= values["limit"]
                late = [row for row in late if row[_ID] not in known]
                rest = [row for row in first if row[_ID] not in known]
                is_full = is_full or len(late) + len(rest) > limit
                late = late[: max(limit - len(rest), (limit + 1) // 2)]
            rows: list[Any] = [*late, *rest][:limit]
            if (fitting := _fitting(rows, max_bytes)) < len(rows):
                is_full = True
                del rows[fitting:]
            too_long = [row[_ID] for row in rows if row[_SIZE] > longest]
            bodies = await self._long(connection, too_long)
        return list(_found(rows, consumer[1], len(late), bodies, set(too_long))), is_full

    async def _long(self, connection: AsyncConnection, ids: Sequence[int]) -> dict[int, object]:
        if not ids:
            return {}
        found = await connection.execute(self._bodies, {"ids": ids})
        return {row.id: row.body for row in found}

    async def waiting(self, consumers: Mapping[int, int]) -> set[int]:
        """Return which of these consumers have something due in these partitions."""
        r = self._tables.rows.c
        # Not EXISTS, for which PostgreSQL reads the table, past all that was postponed.
        due = [
            select(r.id)
            .where(
                r.consumer_id == consumer,
                r.available_at <= clock(),
                literal(partitions, BigInteger()).bitwise_rshift(r.partition_id).bitwise_and(1)
                != 0,
            )
            .order_by(r.consumer_id, r.available_at, r.id)
            .limit(literal_column("1"))
            .scalar_subquery()
            for consumer, partitions in consumers.items()
        ]
        async with connected(self._single) as connection:
            found = (await connection.execute(select(*due))).one()
        return {consumer for consumer, row in zip(consumers, found, strict=True) if row is not None}

    # --- settling -------------------------------------------------------------------------------

    async def settle(self, done: Sequence[int], postponed: Sequence[Postponed]) -> None:
        """Remove what was handled, and have the rest be due later."""
        is_one = not postponed and len(done) <= MOST_IDS  # statement: no BEGIN, no COMMIT
        async with begun(self._single if is_one else self._engine) as connection:
            for start in range(0, len(done), MOST_IDS):
                await connection.execute(*self._many.delete(done[start : start + MOST_IDS]))
            if postponed:
                now = aware((await connection.execute(select(clock()))).scalar_one())
                changes = [
                    {
                        "row": row.id,
                        "then": now + timedelta(seconds=row.after),
                        "attempts_": row.attempts,
                        "crashes_": row.crashes,
                    }
                    for row in postponed
                ]
                await connection.execute(self._postpone, changes)

    async def mark(self, row: int, crashes: int) -> None:
        """Count the crash that this one would be, before its handler begins; never fewer."""
        async with begun(self._single) as connection:
            await connection.execute(self._mark, {"row": row, "crashes_": crashes})

    async def to_dead_letters(self, rows: Sequence[Refused]) -> None:
        """Move rows to the dead letters."""
        async with begun(self._engine) as connection:
            await connection.execute(
                self._to_dead_letters,
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
