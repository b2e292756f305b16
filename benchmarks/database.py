"""Queues on a database: handling, with and without a write, beside peers and what is by hand.

Each run has a database of its own. The rate is that from the `SKIPPED`th event that is handled on.
What a snapshot held open does is seen by the rate of the first fifth of the events, as a multiple
of that of the last.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise

from sqlalchemy import MetaData, insert, literal, select, text, true, union_all

from benchmarks.contestants.queue_peers import FastStreamOutbox, PgQueuer, Procrastinate
from benchmarks.contestants.queues import (
    AiosqliteByHand,
    AsyncmyByHand,
    AsyncpgByHand,
    Batches,
    Effect,
    Ours,
    Queue,
    SessionByHand,
    SkipLocked,
)
from benchmarks.databases import database_url
from benchmarks.latency import percentile
from benchmarks.measuring import Case, Measured, Stopwatch
from benchmarks.workload import Counter, Order
from events.integration.implementation.sqlalchemy import bus_table

SKIPPED = 300
MORE = 1_000  # events than are counted, so that nobody waits for the last ones
FIFTHS = 5
WARMUP = 20
PROCESSES_AT_ONCE = 10

POSTGRESQL: dict[type[Queue], int] = {
    Ours: 20_000,
    SkipLocked: 2_000,
    Batches: 20_000,
    PgQueuer: 15_000,
    Procrastinate: 500,
    FastStreamOutbox: 3_000,
}
"""Who takes part where the handler does nothing, with the events for a second or two."""


@asynccontextmanager
async def queue_on(kind: str, make: type[Queue], at_once: int) -> AsyncGenerator[Queue]:
    with database_url(kind) as url:
        queue = make(url, at_once)
        await queue.prepare()
        yield queue
        await queue.close()


async def handle(
    make: type[Queue], kind: str, effect: Effect, at_once: int, events: int
) -> Measured:
    """Handle what waits."""
    counter = Counter(events, skip=SKIPPED)
    async with queue_on(kind, make, at_once) as queue:
        await queue.fill(counter.count + MORE)
        async with queue.working(counter, effect):
            await counter.done.wait()
    return counter.watch.of(events)


async def fan_out(consumers: int, events: int) -> Measured:
    """Send, and handle, what is for so many consumers; a delivery is one event for one of them."""
    deliveries = events - events % consumers
    counter = Counter(deliveries)
    with database_url("PostgreSQL") as url:
        queue = Ours(url, 20, consumers=consumers)
        await queue.prepare()
        with Stopwatch() as sending:
            await queue.fill(deliveries // consumers)
        counter.watch.start()
        async with queue.working(counter, "nothing"):
            await counter.done.wait()
        await queue.close()
    sent = {"sent per second": deliveries / consumers / sending.wall}
    return counter.watch.of(deliveries, **sent)


async def latency(make: type[Queue], events: int) -> Measured:
    """Put one event at a time; a handler that does nothing gets it."""
    handled, began = asyncio.Event(), 0.0
    arrived: list[float] = []
    confirmed: list[float] = []

    async def note(_: Order) -> None:
        arrived.append(time.perf_counter() - began)
        handled.set()

    async with (
        queue_on("PostgreSQL", make, 10) as queue,
        queue.working(note, "nothing"),
        queue.putting() as put,
    ):
        for _ in range(WARMUP + events):
            handled.clear()
            began = time.perf_counter()
            await put(1)
            confirmed.append(time.perf_counter() - began)
            await handled.wait()
    return {
        "handled ms p50": percentile(arrived[WARMUP:], 50),
        "p99": percentile(arrived[WARMUP:], 99),
        "confirmed ms p50": percentile(confirmed[WARMUP:], 50),
    }


async def commits(events: int) -> Measured:
    """Commit one row at a time by a session: what putting an event costs at least."""
    took: list[float] = []
    async with queue_on("PostgreSQL", SessionByHand, 10) as queue:
        for _ in range(WARMUP + events):
            began = time.perf_counter()
            await queue.write()
            took.append(time.perf_counter() - began)
    return {"confirmed ms p50": percentile(took[WARMUP:], 50)}


async def processes(count: int, events: int) -> Measured:
    """Have so many processes of one consumer name handle what waits, each with one write."""
    async with queue_on("PostgreSQL", Ours, PROCESSES_AT_ONCE) as queue:
        await queue.fill(events)
        children = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", "benchmarks.database", queue.url, stdout=PIPE
            )
            for _ in range(count)
        ]
        outputs = [await child.communicate() for child in children]
    reports = [json.loads(output) for output, _ in outputs]
    handled = sum(each["handled"] for each in reports)
    assert handled == events
    took = max(each["last"] for each in reports) - min(each["first"] for each in reports)
    shares = sorted(each["handled"] / handled for each in reports)
    return {"per second": handled / took, "least share": shares[0]}


async def _take_part(url: str) -> None:
    """Be one of the processes: handle until nothing has come for a second."""
    report = {"first": 0.0, "last": 0.0, "handled": 0}

    async def note(_: Order) -> None:
        report["last"] = time.monotonic()
        report["first"] = report["first"] or report["last"]
        report["handled"] += 1

    queue = Ours(url, PROCESSES_AT_ONCE)
    started = time.monotonic()
    async with queue.working(note, "one write"):
        while time.monotonic() - (report["last"] or started + 4) < 1:
            await asyncio.sleep(0.1)
    await queue.close()
    if not report["handled"]:
        report["first"] = report["last"] = started
    print(json.dumps(report))


async def rows_that_wait(rows: int, events: int) -> Measured:
    """Handle the first of so many rows."""
    counter = Counter(events, skip=SKIPPED)
    async with queue_on("PostgreSQL", Ours, 20) as queue:
        await queue.fill(first := min(rows, 10_000))
        table = bus_table(MetaData())
        columns = [column for column in table.columns if column.name != "id"]
        nine = union_all(*(select(literal(n).label("n")) for n in range(9))).subquery()
        copied = select(*columns).select_from(table.join(nine, true()))
        while first < rows:
            async with queue.engine.begin() as connection:
                names = [column.name for column in columns]
                await connection.execute(insert(table).from_select(names, copied))
            first *= 10
        alone = queue.engine.execution_options(isolation_level="AUTOCOMMIT")
        async with alone.connect() as connection:
            await connection.execute(text("VACUUM ANALYZE bus"))
            await connection.execute(text("CHECKPOINT"))
        async with queue.working(counter, "nothing"):
            await counter.done.wait()
    return counter.watch.of(events)


async def old_snapshot(make: type[Queue], effect: Effect, events: int) -> Measured:
    """Handle what waits while a transaction that began before it keeps all dead rows visible."""
    marks: list[float] = []
    handled = 0
    done = asyncio.Event()

    async def note(_: Order) -> None:
        nonlocal handled
        handled += 1
        if handled % (events // FIFTHS) == 0:
            marks.append(time.perf_counter())
            if len(marks) > FIFTHS:
                done.set()

    async with queue_on("PostgreSQL", make, 10) as queue:
        await queue.fill(events + events // FIFTHS + MORE)
        old = queue.engine.execution_options(isolation_level="REPEATABLE READ")
        async with old.connect() as connection:
            await connection.execute(text("SELECT count(*) FROM app"))
            async with queue.working(note, effect):
                await done.wait()
    rates = [events / FIFTHS / (end - start) for start, end in pairwise(marks)]
    return {"per second": rates[-1], "first fifth / last": rates[0] / rates[-1]}


def cases() -> Iterator[Case]:
    for make, events in POSTGRESQL.items():
        run = partial(handle, make, "PostgreSQL", "nothing", 20)
        yield Case("PostgreSQL, a handler that does nothing, 20 at once", make.name, run, events)
    for make in (
        *(Ours, SessionByHand, AsyncpgByHand, SkipLocked),
        *(PgQueuer, Procrastinate, FastStreamOutbox),
    ):
        run = partial(handle, make, "PostgreSQL", "one write", 10)
        events = 500 if make is Procrastinate else 2_000
        yield Case("PostgreSQL, one write by a session, 10 at once", make.name, run, events)
    for make in (Ours, PgQueuer, Procrastinate, FastStreamOutbox):
        # Some of procrastinate's notices are lost, and its worker looks again after five seconds.
        events = 30 if make is Procrastinate else 200
        yield Case("PostgreSQL, one event at a time", make.name, partial(latency, make), events)
    yield Case("PostgreSQL, one event at a time", "a commit of one row by a session", commits, 200)
    for count in (1, 5, 20):
        yield Case("PostgreSQL, consumers", f"ours, {count}", partial(fan_out, count), 20_000, 3)
    for count in (1, 2, 4):
        yield Case("PostgreSQL, processes", f"ours, {count}", partial(processes, count), 4_000, 3)
    for rows in (10_000, 100_000, 1_000_000):
        run = partial(rows_that_wait, rows)
        yield Case("PostgreSQL, rows that wait", f"ours, {rows:,}", run, 8_000, 3)
    for make, events in ((Ours, 10_000), (SkipLocked, 10_000)):
        group = "PostgreSQL, an old snapshot held open, one write"
        yield Case(group, make.name, partial(old_snapshot, make, "one write"), events, 2)
    for kind, at_once, bare in (("MariaDB", 10, AsyncmyByHand), ("SQLite", 1, AiosqliteByHand)):
        for make in (Ours, SessionByHand, bare):
            group = f"{kind}, one write by a session, {at_once} at once"
            run = partial(handle, make, kind, "one write", at_once)
            yield Case(group, make.name, run, 2_000)
        run = partial(handle, Ours, kind, "nothing", 20)
        yield Case(f"{kind}, a handler that does nothing, 20 at once", Ours.name, run, 10_000)


if __name__ == "__main__":
    asyncio.run(_take_part(sys.argv[1]))
