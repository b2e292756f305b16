"""The bus on a database whose server is killed and frozen: nothing that was accepted is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator

import pytest
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from events.errors import BusError
from events.integration import IntegrationEventBusRegistration, Topic
from events.integration.implementation.sqlalchemy import SQLAlchemyIntegrationEventBus, bus_table
from events.testing import eventually
from events.testing.contracts import Numbered, Probe
from tests.databases import mariadb_server, postgresql_server
from tests.databases.database import Database, new_database
from tests.servers import PrivateServer

TIMEOUT = 120.0
TOPIC = Topic("outages")
METADATA = MetaData()
bus_table(METADATA)
DRIVERS = {
    "asyncpg": (postgresql_server, "postgresql", "postgresql+asyncpg"),
    "asyncmy": (mariadb_server, "mariadb", "mariadb+asyncmy"),
}


@pytest.fixture(params=DRIVERS)
def made(request: pytest.FixtureRequest) -> Generator[tuple[PrivateServer, Database, str]]:
    module, kind, driver = DRIVERS[request.param]
    with module.private_server() as server, new_database(kind, server.url) as database:
        yield server, database, driver
        server.thaw()


@pytest.fixture
async def engine(made: tuple[PrivateServer, Database, str]) -> AsyncGenerator[AsyncEngine]:
    _, database, driver = made
    engine = create_async_engine(database.url(driver), pool_pre_ping=True)
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
    yield engine
    await engine.dispose()


async def test_23_what_was_accepted_before_a_crash_of_the_server_arrives(
    made: tuple[PrivateServer, Database, str], engine: AsyncEngine
) -> None:
    server = made[0]
    gate = asyncio.Event()
    probe = Probe("consumer", lambda _: gate.wait())
    registration = IntegrationEventBusRegistration(probe, TOPIC, [Numbered], concurrency=2)
    accepted: list[int] = []
    async with SQLAlchemyIntegrationEventBus(engine, [registration], send_timeout=60.0) as bus:
        await bus.send_many(TOPIC, map(Numbered, range(50)))
        accepted += range(50)
        await eventually(lambda: probe.running, TIMEOUT)
        await asyncio.to_thread(server.kill)
        await eventually(lambda: not bus.health().connected, TIMEOUT)
        assert probe.running, "an outage cancels no handler"
        gate.set()
        await asyncio.to_thread(server.start)
        for number in range(50, 60):
            try:
                await bus.send(TOPIC, Numbered(number))
            except BusError:
                continue
            accepted.append(number)
        await eventually(lambda: set(accepted) <= set(probe.numbers), TIMEOUT)
        await eventually(lambda: bus.health().healthy, TIMEOUT)
        assert await bus.dead_letters(probe) == []


async def test_24_send_to_a_frozen_server_raises_within_its_deadline(
    made: tuple[PrivateServer, Database, str], engine: AsyncEngine
) -> None:
    server = made[0]
    probe = Probe("consumer")
    registration = IntegrationEventBusRegistration(probe, TOPIC, [Numbered])
    async with SQLAlchemyIntegrationEventBus(engine, [registration], send_timeout=15.0) as bus:
        await bus.send(TOPIC, Numbered(1))
        await eventually(lambda: probe.numbers == [1], TIMEOUT)
        server.freeze()
        with pytest.raises(BusError):
            await bus.send(TOPIC, Numbered(2))
        server.thaw()

        async def is_sent() -> bool:
            try:
                await bus.send(TOPIC, Numbered(3))
            except BusError:
                return False
            return True

        await eventually(is_sent, TIMEOUT)
        await eventually(lambda: 3 in probe.numbers, TIMEOUT)
