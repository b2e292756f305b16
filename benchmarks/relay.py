"""The outbox: emptying it, what `put` costs, and what a relay does to those who write beside it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from benchmarks.contestants import relays
from benchmarks.contestants.ours import ignore
from benchmarks.contestants.rabbitmq import OursOnRabbitMQ
from benchmarks.contestants.relays import Bus, NoOpBus, Relay
from benchmarks.databases import KINDS, TOPIC, count, fill, outbox, settle
from benchmarks.measuring import Case, Measured, Stopwatch
from benchmarks.relay_latency import cases as latency_cases
from benchmarks.workload import OrderPlaced, make
from events.errors import BusError
from events.integration.implementation.sqlalchemy import SQLAlchemyOutbox
from events.integration.message import Message

ROWS = 10_000
UNIT = 100  # events in a unit of work

Connect: TypeAlias = Callable[[], AbstractAsyncContextManager[Bus]]


@asynccontextmanager
async def no_op() -> AsyncGenerator[Bus]:
    yield NoOpBus()


@asynccontextmanager
async def to_rabbitmq() -> AsyncGenerator[Bus]:
    contestant = OursOnRabbitMQ()
    place = TOPIC.name
    registration = contestant.registration(place, ignore)
    async with contestant.bus([registration]) as bus:
        await bus.unregister(registration)  # the queue stays, and fills
        yield bus
    await contestant.remove(place)


async def drain(
    kind: str, relay: Relay, connect: Connect, rows: int, *, snapshot: bool = False
) -> Measured:
    """Empty an outbox; `snapshot` holds an old one open, as a long report does."""
    async with AsyncExitStack() as stack:
        engine, table = await stack.enter_async_context(outbox(kind))
        bus = await stack.enter_async_context(connect())
        if snapshot:
            old = await stack.enter_async_context(engine.connect())
            await old.execution_options(isolation_level="REPEATABLE READ")
            await old.execute(text("SELECT count(*) FROM app"))
        await fill(engine, table, rows)
        await settle(engine)
        watch = Stopwatch()
        _start_at_the_first(bus, watch)
        gc.collect()
        await relay(engine, table, bus)
        watch.stop()
        assert await count(engine, table) == 0
    return watch.of(rows)


def _start_at_the_first(bus: Bus, watch: Stopwatch) -> None:
    """Measure from the first message on: starting up, with a look at the tables, is done once."""
    forward = bus.forward

    async def first(messages: Sequence[Message]) -> Sequence[BusError | None]:
        if messages:
            bus.forward = forward  # type: ignore[method-assign]
            watch.start()
        return await forward(messages)

    bus.forward = first  # type: ignore[method-assign]


async def the_bus_alone(connect: Connect, rows: int) -> Measured:
    """Send with no outbox what the relay sends: the limit of what it can do."""
    async with outbox("SQLite") as (engine, table), connect() as bus:
        await fill(engine, table, rows)
        messages = await relays.read_all(engine, table)
        with Stopwatch() as watch:
            await relays.forward_all(messages, bus)
    return watch.of(rows)


async def put(kind: str, events: int, units: int) -> Measured:
    """Commit units of work that write one row of their own, with `events` more in the outbox.

    Statements are those that the unit waits for. What is sent `besides` is NOTIFY on PostgreSQL,
    by a task of its own, and its CPU time is in that of the units.
    """
    statements = besides = 0
    unit = asyncio.current_task()

    def counted(*_: object) -> None:
        nonlocal statements, besides
        if asyncio.current_task() is unit:
            statements += 1
        else:
            besides += 1

    async with outbox(kind) as (engine, table):
        event.listen(engine.sync_engine, "before_cursor_execute", counted)
        await _unit(engine, table, events)
        statements = besides = 0
        with Stopwatch() as watch:
            for _ in range(units):
                await _unit(engine, table, events)
        found = {"CPU µs per unit": 1e6 * watch.cpu / units, "statements": statements / units}
    return found | {"besides": besides / units, "ms per unit": 1e3 * watch.wall / units}


async def _unit(engine: AsyncEngine, table: Any, events: int) -> None:
    async with AsyncSession(engine) as session, session.begin():
        await session.execute(text("INSERT INTO app VALUES (1, 'a row of the application')"))
        box = SQLAlchemyOutbox(session, table=table)
        for each in make(events, OrderPlaced):
            await box.put(TOPIC, each)  # type: ignore[arg-type]


def cases() -> Iterator[Case]:
    for kind in KINDS:
        for name, relay in relays.CONTESTANTS.items():
            run = partial(drain, kind, relay, no_op)
            rounds = 3 if relay is relays.row_by_row else None
            yield Case(f"{kind}, no-op publisher", name, run, ROWS, rounds)
    for kind in KINDS:
        for rows, rounds in ((10 * ROWS, 2), (100 * ROWS, 1)):
            if kind != "SQLite" or rows < 100 * ROWS:  # nobody has so many there
                group = f"{kind}, no-op publisher, {rows:,} rows"
                yield Case(group, "ours", partial(drain, kind, relays.ours, no_op), rows, rounds)
    group = f"PostgreSQL, an old snapshot held open, {10 * ROWS:,} rows"
    for name in ("ours", "one select, one bulk delete"):
        run = partial(drain, "PostgreSQL", relays.CONTESTANTS[name], no_op, snapshot=True)
        yield Case(group, name, run, 10 * ROWS, 2)
    group = "PostgreSQL into RabbitMQ"
    for name, relay in relays.CONTESTANTS.items():
        run = partial(drain, "PostgreSQL", relay, to_rabbitmq)
        yield Case(group, name, run, ROWS // 10 if relay is relays.row_by_row else ROWS)
    yield Case(group, "the bus alone", partial(the_bus_alone, to_rabbitmq), ROWS)
    for kind in KINDS:
        for name, events in ((f"ours, {UNIT} events put", UNIT), ("nothing put", 0)):
            yield Case(f"{kind}, a unit of work", name, partial(put, kind, events), 50)
    yield from latency_cases()
