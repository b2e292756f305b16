"""The plans of what outbox and bus ask all the time, with many rows that wait for their time.

Half of them wait under a schedule id, in the table for those, the other half in the table of the
rows that are due, with `available_at` alone. Each group is made by one statement.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, TypeAlias

from msgspec import Struct
from sqlalchemy import (
    Column,
    FromClause,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    cast,
    column,
    event,
    func,
    insert,
    literal,
    select,
    table,
    text,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from events.integration.implementation.sqlalchemy import (
    SQLAlchemyIntegrationEventBus,
    SQLAlchemyOutbox,
    SQLAlchemyOutboxStore,
    bus_table,
    outbox_table,
)
from events.integration.implementation.sqlalchemy._bus.rows import Rows
from events.integration.implementation.sqlalchemy._bus.sharing import Seat
from events.integration.implementation.sqlalchemy._bus.tables import BusTables
from events.integration.implementation.sqlalchemy._calendar import Calendar
from events.integration.implementation.sqlalchemy.tables import AT_ONCE
from events.integration.outbox import PARTITIONS, Lease

Ask: TypeAlias = Callable[[], Awaitable[object]]

METADATA = MetaData()
PLACES = {"outbox": outbox_table(METADATA), "bus": bus_table(METADATA)}
LATER = datetime(2101, 1, 1, tzinfo=UTC)
DUE = 2_000
CONSUMERS = 3
ALL = (1 << PARTITIONS) - 1
EXPLAIN = {
    "postgresql": "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF) ",
    "mariadb": "ANALYZE ",
    "sqlite": "EXPLAIN QUERY PLAN ",
}


class Plan(Struct, frozen=True):
    """A statement of a question, the database's plan for it, and the least time that the question takes."""

    question: str
    sql: str
    lines: list[str]
    milliseconds: float


async def fill(engine: AsyncEngine, rows: int, *, due: int = DUE) -> None:
    """Make the tables, with so many rows that wait of each kind, and some that are due."""
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
        await connection.execute(insert(METADATA.tables["outbox_relays"]), _RELAY)
        await connection.execute(insert(METADATA.tables["bus_members"]), _MEMBER)
    for made in PLACES.values():
        for into, count, at in (
            (METADATA.tables[f"{made.name}_scheduled"], rows, LATER),
            (made, rows, LATER),
            (made, due, AT_ONCE),
        ):
            if count:
                async with engine.begin() as connection:
                    await connection.execute(_made_of_numbers(engine.dialect.name, into, count, at))


_HOLDS = {"token": "token", "lease_seconds": 30.0, "expires_at": LATER}
_RELAY = {"relay": "relay", "partitions": "", **_HOLDS}
_MEMBER = {"member": "member", "partitions": "{}", **_HOLDS}


def _made_of_numbers(dialect: str, into: Table, count: int, at: datetime) -> Any:
    number, numbers = _numbers(dialect, count)
    digits = cast(number, String(20))
    values: dict[str, Any] = {
        "schedule_id": literal("invoice-") + digits,
        "consumer_id": number % CONSUMERS + 1,
        "event_id": literal("event-") + digits,
        "topic": literal("invoices"),
        "partition_id": number % PARTITIONS,
        "type": literal("invoice.payment_due"),
        "version": literal(1),
        "headers": literal("{}"),
        "body": literal(b'{"invoice": 7, "text": "' + 100 * b"x" + b'"}', LargeBinary),
        "created_at": literal(AT_ONCE, into.c.created_at.type),
        "available_at": literal(at, into.c.available_at.type),
    }
    names = [each.name for each in into.columns if each.name in values]
    return insert(into).from_select(names, select(*(values[n] for n in names)).select_from(numbers))


def _numbers(dialect: str, count: int) -> tuple[Column[int] | Any, FromClause]:
    if dialect == "postgresql":
        made = func.generate_series(1, count).table_valued(column("i", Integer)).render_derived()
        return made.c.i, made
    if dialect == "mariadb":  # its engine of sequences; a recursion has a limit there
        sequence = table(f"seq_1_to_{count}", column("seq", Integer))
        return sequence.c.seq, sequence
    first = select(literal(1).label("i")).cte("numbers", recursive=True)
    made_of = first.union_all(select(first.c.i + 1).where(first.c.i < count))
    return made_of.c.i, made_of


async def analyze(engine: AsyncEngine) -> None:
    """Have the database know how many rows there are."""
    word = "ANALYZE TABLE" if engine.dialect.name == "mariadb" else "ANALYZE"
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with alone.connect() as connection:
        for each in METADATA.tables:
            await connection.execute(text(f"{word} {each}"))


def questions(engine: AsyncEngine, *, limit: int = 100, is_backlog: bool = False) -> dict[str, Ask]:
    """Return what is asked all the time, and what an owner asks now and then, of each place.

    `limit` is how many of the rows that are due are read at once, `is_backlog` whether the read
    before had as many.
    """
    store = SQLAlchemyOutboxStore(engine)
    lease = Lease("relay", "token", frozenset(range(PARTITIONS)), 30.0, 30.0)
    bus: Any = SQLAlchemyIntegrationEventBus(engine).transport
    rows = Rows(engine, engine, BusTables(PLACES["bus"]))
    seat, consumer = Seat("member", "token", {}, {}, 30.0, 30.0), (1, "consumer")

    async def bus_due(after: int | None = None) -> object:
        return await rows.due(
            seat,
            consumer,
            ALL,
            limit=limit,
            max_bytes=8 << 20,
            after=after,
            known=(),
            is_backlog=is_backlog,
        )

    asked: dict[str, Ask] = {
        "outbox: what is due": lambda: store.due(lease, limit),
        "outbox: what is due, on from a row": lambda: store.due(lease, limit, after=1),
        "outbox: is anything due": lambda: store.has_due(1 << 40),
        "bus: what is due": bus_due,
        "bus: what is due, on from a row": lambda: bus_due(1),
        "bus: whose rows are due": lambda: rows.waiting(dict.fromkeys(range(1, 6), ALL)),
    }
    calendars: dict[str, SQLAlchemyOutboxStore | Calendar] = {"outbox": store, "bus": bus.calendar}
    for name, calendar in calendars.items():
        asked |= _of_schedules(engine, name, calendar)
    return asked


def _of_schedules(
    engine: AsyncEngine, name: str, calendar: SQLAlchemyOutboxStore | Calendar
) -> dict[str, Ask]:
    @asynccontextmanager
    async def outbox() -> AsyncGenerator[SQLAlchemyOutbox]:
        async with engine.connect() as connection:
            yield SQLAlchemyOutbox(connection, table=PLACES[name])
            await connection.rollback()

    async def cancel() -> None:
        async with outbox() as box:
            await box.cancel("invoice-777")

    async def page() -> None:
        async with outbox() as box:
            await box.scheduled(prefix="invoice-77", limit=100)

    return {
        f"{name}: when is the next scheduled event due": calendar.next_schedule,
        f"{name}: which scheduled events are due": lambda: calendar.release(100),
        f"{name}: cancel": cancel,
        f"{name}: list by a prefix": page,
    }


async def plans(
    engine: AsyncEngine, *, times: int = 1, limit: int = 100, is_backlog: bool = False
) -> list[Plan]:
    """Ask each question, and have its statements explained, as they were set to be planned."""
    found: list[Plan] = []
    for question, ask in questions(engine, limit=limit, is_backlog=is_backlog).items():
        await ask()  # what is asked once, such as the name of an index
        asked = list[tuple[str, Any]]()
        settings = list[str]()

        def note(
            *of: Any, asked: list[tuple[str, Any]] = asked, settings: list[str] = settings
        ) -> None:
            if of[2].startswith("SET LOCAL"):
                settings.append(of[2])
            elif of[2].lstrip("( ").startswith(("SELECT", "DELETE", "WITH")):
                asked.append((of[2], of[3]))

        event.listen(engine.sync_engine, "before_cursor_execute", note)
        try:
            await ask()
        finally:
            event.remove(engine.sync_engine, "before_cursor_execute", note)
        took = [await _seconds(ask) for _ in range(times)]
        for sql, values in asked:
            lines = await _explained(engine, sql, values, settings)
            found.append(Plan(question, sql, lines, 1_000 * min(took)))
    return found


async def _seconds(ask: Ask) -> float:
    began = perf_counter()
    await ask()
    return perf_counter() - began


async def _explained(engine: AsyncEngine, sql: str, values: Any, settings: list[str]) -> list[str]:
    async with engine.connect() as connection:
        for each in settings:
            await connection.exec_driver_sql(each)
        explained = await connection.exec_driver_sql(EXPLAIN[engine.dialect.name] + sql, values)
        rows = explained.mappings().all()
        await connection.rollback()
    if engine.dialect.name == "mariadb":
        return [
            ", ".join(f"{k} {v}" for k, v in row.items() if v is not None and k != "possible_keys")
            for row in rows
        ]
    return [str(row.get("detail", row.get("QUERY PLAN"))) for row in rows]
