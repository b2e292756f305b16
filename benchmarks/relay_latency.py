"""What waits because of the outbox: commits beside a relay that drains, and a row for its relay."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from benchmarks.contestants.relays import NoOpBus
from benchmarks.databases import TOPIC, fill, outbox
from benchmarks.latency import percentile
from benchmarks.measuring import Case, Measured
from benchmarks.workload import OrderPlaced, make
from events.integration import OutboxRelay
from events.integration.implementation.sqlalchemy import SQLAlchemyOutbox, SQLAlchemyOutboxStore
from events.integration.message import Message

BACKLOG = 20_000
PAUSE = 0.005  # seconds between the application's commits, so that the relay has its turn as well


async def commits(commits: int, *, draining: bool) -> Measured:
    """Time the application's own small commits on SQLite."""
    took: list[float] = []
    async with outbox("SQLite") as (engine, table):
        while len(took) < commits:
            sent = 0

            def taken(messages: Sequence[Message]) -> None:
                nonlocal sent
                sent += len(messages)

            if draining:
                await fill(engine, table, BACKLOG)
            relay = OutboxRelay(SQLAlchemyOutboxStore(engine, table=table), NoOpBus(taken))
            async with relay:
                while len(took) < commits and (not draining or sent < BACKLOG):
                    await asyncio.sleep(PAUSE)
                    began = time.perf_counter()
                    async with engine.begin() as connection:
                        await connection.execute(text("INSERT INTO app VALUES (1, 'x')"))
                    took.append(time.perf_counter() - began)
                await relay.drain()
    return {"ms p50": percentile(took, 50), "ms p95": percentile(took, 95)}


@asynccontextmanager
async def relaying(engine: AsyncEngine, table: Table) -> AsyncGenerator[list[float]]:
    """Run a relay that is idle; yields when each row came to the bus."""
    arrived: list[float] = []

    def taken(messages: Sequence[Message]) -> None:
        arrived.extend([time.monotonic()] * len(messages))

    # Seldom enough that polling does not help.
    relay = OutboxRelay(
        SQLAlchemyOutboxStore(engine, table=table), NoOpBus(taken), poll_interval=30
    )
    async with relay:
        await relay.drain()
        yield arrived


async def commit_now_and_then(engine: AsyncEngine, table: Table, times: int) -> list[float]:
    committed: list[float] = []
    for event in make(times, OrderPlaced):
        await asyncio.sleep(random.uniform(0.01, 0.03))  # noqa: S311
        async with AsyncSession(engine) as session, session.begin():
            await SQLAlchemyOutbox(session, table=table).put(TOPIC, event)  # type: ignore[arg-type]
        committed.append(time.monotonic())
    return committed


async def wake_up(kind: str, times: int) -> Measured:
    async with outbox(kind) as (engine, table), relaying(engine, table) as arrived:
        committed = await commit_now_and_then(engine, table, times)
        return await _delays(committed, arrived)


async def wake_up_from_elsewhere(times: int) -> Measured:
    """The writer is another process; the clock is the system's, the same for both."""
    async with outbox("PostgreSQL") as (engine, table), relaying(engine, table) as arrived:
        url = engine.url.render_as_string(hide_password=False)
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-m", __name__, url, str(times), stdout=PIPE
        )
        written, _ = await writer.communicate()
        assert writer.returncode == 0
        return await _delays([float(line) for line in written.split()], arrived)


async def _delays(committed: list[float], arrived: list[float]) -> Measured:
    while len(arrived) < len(committed):
        await asyncio.sleep(0.01)
    delays = [max(0.0, b - a) for a, b in zip(committed, arrived, strict=True)]
    return {"ms p50": percentile(delays, 50), "ms p99": percentile(delays, 99)}


async def _write(url: str, times: int) -> None:
    from events.integration.implementation.sqlalchemy.tables import default_table  # noqa: PLC0415

    engine = create_async_engine(url)
    for each in await commit_now_and_then(engine, default_table(), times):
        print(each)
    await engine.dispose()


def cases() -> Iterator[Case]:
    group = "SQLite, the application's commits"
    yield Case(group, "ours, while a relay drains", partial(commits, draining=True), 400, 3)
    yield Case(group, "while it is idle", partial(commits, draining=False), 400, 3)
    group = "wake-up, from commit to bus"
    yield Case(group, "ours, SQLite, in process", partial(wake_up, "SQLite"), 300, 3)
    yield Case(group, "ours, PostgreSQL, in process", partial(wake_up, "PostgreSQL"), 300, 3)
    yield Case(group, "ours, PostgreSQL, from another process", wake_up_from_elsewhere, 300, 3)


if __name__ == "__main__":
    asyncio.run(_write(sys.argv[1], int(sys.argv[2])))
