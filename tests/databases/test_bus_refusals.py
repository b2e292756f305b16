"""What a database will never take fails alone, in the database's words, and is no outage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

import pytest
from sqlalchemy import MetaData, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from events.errors import BusUnavailableError, MessageTooLargeError, SendRefusedError
from events.integration import IntegrationEvent, IntegrationEventBusRegistration, OutboxRelay, Topic
from events.integration.implementation.sqlalchemy._bus.rows import Rows
from events.sqlalchemy import (
    SQLAlchemyBus,
    SQLAlchemyOutbox,
    SQLAlchemyOutboxStore,
    bus_table,
    outbox_table,
)
from events.testing import eventually
from events.testing.contracts import Numbered, Probe
from tests.databases.database import Kind, new_database

TOPIC = Topic("orders")
METADATA = MetaData()
bus_table(METADATA)
outbox_table(METADATA)
DRIVERS: dict[str, Kind] = {
    "postgresql+asyncpg": "postgresql",
    "postgresql+psycopg": "postgresql",
    "mariadb+asyncmy": "mariadb",
}


@dataclass
class Noted(IntegrationEvent):
    type = "tests.refusals.noted"
    version = 1
    text: str


@pytest.fixture(params=DRIVERS)
async def engine(request: pytest.FixtureRequest) -> AsyncGenerator[AsyncEngine]:
    driver: str = request.param
    with new_database(DRIVERS[driver]) as database:
        engine = create_async_engine(database.url(driver))
        async with engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)
        yield engine
        await engine.dispose()


def consuming() -> IntegrationEventBusRegistration:
    async def ignore(_: IntegrationEvent) -> None:
        pass

    return IntegrationEventBusRegistration(Probe("mails", ignore), TOPIC, [Noted, Numbered])


@asynccontextmanager
async def reader_of(engine: AsyncEngine) -> AsyncGenerator[AsyncEngine]:
    """Give an engine whose user may write all of the bus's tables, but no events."""
    user, name = f"reader_{uuid4().hex[:8]}", engine.url.database
    is_postgresql = engine.dialect.name == "postgresql"
    who = user if is_postgresql else f"{user}@'%'"
    made = f"ROLE {user} LOGIN PASSWORD 'x'" if is_postgresql else f"USER {who} IDENTIFIED BY 'x'"
    of = "" if is_postgresql else f"{name}."
    async with engine.begin() as connection:
        await connection.execute(text(f"CREATE {made}"))
        for table in METADATA.tables:
            rights = "SELECT" if table == "bus" else "SELECT, INSERT, UPDATE, DELETE"
            await connection.execute(text(f"GRANT {rights} ON {of}{table} TO {who}"))
    reader = create_async_engine(engine.url.set(username=user, password="x"))
    yield reader
    await reader.dispose()
    async with engine.begin() as connection:
        if is_postgresql:
            await connection.execute(text(f"DROP OWNED BY {user}"))
        await connection.execute(text(f"DROP {'ROLE' if is_postgresql else 'USER'} {who}"))


async def test_a_permission_that_is_missing_is_named_and_parks_the_row(engine: AsyncEngine) -> None:
    async with (
        reader_of(engine) as reader,
        SQLAlchemyBus(engine, [consuming()]),
        SQLAlchemyBus(reader) as bus,
    ):
        with pytest.raises(SendRefusedError, match=r"(denied.*INSERT|INSERT.*denied|denied.*bus)"):
            await bus.send(TOPIC, Numbered(1))
        async with AsyncSession(engine) as session, session.begin():
            await SQLAlchemyOutbox(session).put(TOPIC, Numbered(2))
        async with asyncio.timeout(60), OutboxRelay(SQLAlchemyOutboxStore(engine), bus) as relay:
            await relay.drain()
            [row] = await relay.parked()
        assert "denied" in row.error


@pytest.mark.parametrize("engine", ["mariadb+asyncmy"], indirect=True)
async def test_a_body_over_what_the_server_takes_in_a_statement_costs_its_neighbours_nothing(
    engine: AsyncEngine,
) -> None:
    # The server closes the connection on it, which looks like an outage.
    bus = SQLAlchemyBus(engine, [consuming()], max_body_size=64 << 20)
    events = [Noted('"' * 5_000_000 if number == 2 else "short") for number in range(5)]
    async with bus, asyncio.timeout(60):
        sent = await asyncio.gather(
            *(bus.send(TOPIC, event) for event in events), return_exceptions=True
        )
    assert [type(each) for each in sent if each is not None] == [MessageTooLargeError]
    assert sent[2] is not None


@pytest.mark.parametrize("engine", ["mariadb+asyncmy"], indirect=True)
async def test_a_key_is_refused_rather_than_cut(engine: AsyncEngine) -> None:
    lax = create_async_engine(engine.url, connect_args={"init_command": "SET sql_mode = ''"})
    async with SQLAlchemyBus(lax, [consuming()]) as bus:
        with pytest.raises(SendRefusedError, match="key has 256 characters, over 255"):
            await bus.send(TOPIC, Numbered(1), key="k" * 256)
        await bus.send(TOPIC, Numbered(1), key="é" * 255)
    await lax.dispose()


async def test_past_the_deadline_the_reason_is_what_the_database_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/bus.db")
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)

    tried: list[object] = []

    def away(*_: object) -> NoReturn:
        tried.append(None)
        raise OperationalError("INSERT", None, ConnectionError("it is away"))

    monkeypatch.setattr(Rows, "write", away)
    # Long enough that a busy machine connects and tries twice in it.
    async with SQLAlchemyBus(engine, send_timeout=15.0) as bus:
        with pytest.raises(BusUnavailableError, match="it is away"):
            await bus.send(TOPIC, Numbered(1))
    await eventually(lambda: len(tried) > 1)
    await engine.dispose()
