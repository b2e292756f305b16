"""What the inbox adds to the handling of one message, on each database.

The handler writes one row. Without the inbox it opens, commits and closes its session itself; with
it, the inbox does, through its own call, one message after the other.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncGenerator, Generator, Iterator
from functools import partial
from pathlib import Path

from sqlalchemy import URL, Column, Integer, MetaData, String, Table, insert, make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from benchmarks.measuring import Case, Measured, Stopwatch
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
MESSAGES, WARMUP = 300, 50


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


async def measure(driver: str, count: int, *, guarded: bool) -> Measured:
    async with sessions_on(driver) as sessions:
        inbox = SQLAlchemyInbox(sessions)

        async def bare(_: IncomingEvent) -> None:
            async with sessions() as session:
                await session.execute(WRITE)
                await session.commit()

        async def write(_: IncomingEvent) -> None:
            await current_session().execute(WRITE)

        async def handle(incoming: IncomingEvent) -> None:
            await (inbox(incoming, write) if guarded else bare(incoming))

        for _ in range(WARMUP):
            await handle(message())
        messages = [message() for _ in range(count)]
        with Stopwatch() as watch:
            for each in messages:
                await handle(each)
        assert inbox.handled == (WARMUP + count) * guarded
    return {"ms": 1e3 * watch.wall / count, "CPU µs": 1e6 * watch.cpu / count}


def cases() -> Iterator[Case]:
    for driver in DRIVERS:
        for name, guarded in (("ours, with the inbox", True), ("without", False)):
            yield Case(driver, name, partial(measure, driver, guarded=guarded), MESSAGES)
