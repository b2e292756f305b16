"""What the inbox adds to the handling of one message, on each database.

    python -m benchmarks.inbox [--rounds 5] [--messages 300] [postgresql+asyncpg ...]

The handler writes one row. Without the inbox it opens, commits and closes its session itself; with
it, the inbox does. Both run through a `SQLAlchemyInbox`'s own call, one message after the other, in
interleaved rounds; medians of milliseconds and of the process's CPU time per message.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from pathlib import Path

from sqlalchemy import URL, Column, Integer, MetaData, String, Table, insert, make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from events.integration import (
    Delivery,
    EventHandlerConsumer,
    IncomingEvent,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    Topic,
)
from events.integration.implementation.sqlalchemy import (
    SQLAlchemyInbox,
    current_session,
    enable_wal,
    inbox_table,
)
from events.integration.uuid7 import uuid7
from tests.databases.database import new_database

DRIVERS = ["postgresql+asyncpg", "postgresql+psycopg", "mariadb+asyncmy", "sqlite+aiosqlite"]
REACH = {"postgresql": 0.5, "mariadb": 0.5, "sqlite": 1.0}  # milliseconds that it may add


class MailSent(IntegrationEvent):
    type = "benchmarks.mail-sent"
    version = 1


async def on_mail_sent(_: MailSent) -> None:
    """Stand for the handler: here the effect is written by `write`."""


METADATA = MetaData()
INBOX = inbox_table(METADATA)
EFFECTS = Table(
    "effects",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("email", String(255)),
)
WRITE = insert(EFFECTS).values(email="user@example.org").inline()
REGISTRATION = IntegrationEventBusRegistration(
    EventHandlerConsumer("mails", {MailSent: on_mail_sent}), Topic("mails"), [MailSent]
)


def message() -> IncomingEvent:
    delivery = Delivery("mails", "mails", uuid7(), b"{}", {})
    return IncomingEvent(MailSent(), delivery, REGISTRATION)


async def timed(count: int, handle: Callable[[IncomingEvent], Awaitable[None]]) -> list[float]:
    """Return milliseconds and milliseconds of CPU time for one message."""
    messages = [message() for _ in range(count)]
    wall, cpu = time.perf_counter(), time.process_time()
    for each in messages:
        await handle(each)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return [1_000 * wall / count, 1_000 * cpu / count]


@contextlib.contextmanager
def database(driver: str) -> Generator[URL]:
    if driver.startswith("sqlite"):
        with tempfile.TemporaryDirectory() as folder:
            yield make_url(f"{driver}:///{Path(folder) / 'inbox.db'}")
    else:
        with new_database("postgresql" if "postgresql" in driver else "mariadb") as there:
            yield there.url(driver)


@contextlib.asynccontextmanager
async def sessions_on(driver: str) -> AsyncGenerator[async_sessionmaker[AsyncSession]]:
    with database(driver) as url:
        engine = create_async_engine(url)
        if driver.startswith("sqlite"):
            await enable_wal(engine)
        async with engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)
        yield async_sessionmaker(engine)
        await engine.dispose()


async def measure(driver: str, rounds: int, count: int) -> None:
    async with sessions_on(driver) as sessions:
        inbox = SQLAlchemyInbox(sessions)

        async def bare(_: IncomingEvent) -> None:
            async with sessions() as session:
                await session.execute(WRITE)
                await session.commit()

        async def write(_: IncomingEvent) -> None:
            await current_session().execute(WRITE)

        async def guarded(incoming: IncomingEvent) -> None:
            await inbox(incoming, write)

        results: dict[str, list[list[float]]] = {"without": [], "with": []}
        for number in range(rounds + 1):  # the first is for warming up
            for name, handle in (("without", bare), ("with", guarded)):
                result = await timed(count, handle)
                if number:
                    results[name].append(result)
        assert inbox.handled == (rounds + 1) * count

    wall, cpu = (
        {name: statistics.median(r[i] for r in rows) for name, rows in results.items()}
        for i in (0, 1)
    )
    added = statistics.median(
        w[0] - b[0] for w, b in zip(results["with"], results["without"], strict=True)
    )
    print(
        f"{driver:20} {wall['without']:8.3f} {wall['with']:8.3f} {added:+8.3f} ms "
        f"(reach {REACH[driver.split('+', maxsplit=1)[0]]:.1f})   CPU "
        f"{cpu['without']:6.3f} {cpu['with']:6.3f} {cpu['with'] - cpu['without']:+6.3f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("drivers", nargs="*", default=DRIVERS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=300)
    options = parser.parse_args()
    print(f"{'per message':20} {'without':>8} {'with':>8} {'added':>8}")
    for driver in options.drivers:
        asyncio.run(measure(driver, options.rounds, options.messages))


if __name__ == "__main__":
    main()
