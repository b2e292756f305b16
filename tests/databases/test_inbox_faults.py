"""The inbox when processes die, connections are lost and databases go away: real ones of each."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from events.integration import (
    IntegrationEvent,
    IntegrationEventBusRegistration,
    RetryPolicy,
    Topic,
)
from events.integration.implementation.memory import InMemoryIntegrationEventBus
from events.integration.implementation.rabbitmq import RabbitMQIntegrationEventBus
from events.integration.implementation.sqlalchemy import current_session
from events.testing import eventually, until_quiet
from events.testing.contracts import Numbered, Probe
from tests.brokers.rabbitmq_server import Client, RabbitMQServer, rabbitmq_server
from tests.contracts.sqlalchemy_inbox import SQLAlchemyInboxDatabase, created, on_server
from tests.databases import mariadb_server, postgresql_server
from tests.databases.database import new_database
from tests.servers import PrivateServer, end

__all__ = ["rabbitmq_server"]


ROOT = Path(__file__).parents[2]
TIMEOUT = 120.0
DRIVERS = ["postgresql+asyncpg", "postgresql+psycopg", "mariadb+asyncmy"]
PRIVATE: dict[str, Callable[[], AbstractContextManager[PrivateServer]]] = {
    "postgresql": postgresql_server.private_server,
    "mariadb": mariadb_server.private_server,
}


@contextmanager
def worker(**options: Any) -> Generator[subprocess.Popen[bytes]]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "tests.databases.inbox_worker", json.dumps(options)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        yield process
    finally:
        end(process)


@pytest.mark.parametrize("driver", DRIVERS)
async def test_37_a_consumer_killed_between_commit_and_ack_has_each_effect_once(
    rabbitmq_server: RabbitMQServer, driver: str
) -> None:
    topic = f"inbox-{uuid4().hex[:8]}"
    registration = IntegrationEventBusRegistration(
        Probe(f"{topic}-worker"), Topic(topic), [Numbered]
    )
    async with on_server(driver) as database:
        options = {
            "bus": rabbitmq_server.url,
            "database": database.engine.url.render_as_string(hide_password=False),
            "topic": topic,
        }
        async with RabbitMQIntegrationEventBus(rabbitmq_server.url, [registration]) as bus:
            await bus.unregister(registration)  # its queue stays
            await bus.send_many(Topic(topic), map(Numbered, range(20)))
            with worker(**options, dies=7) as first:
                assert await asyncio.to_thread(first.wait, TIMEOUT) == -signal.SIGKILL
            assert 7 in await database.effects()
            with worker(**options):
                await eventually(lambda: _has(database, 20), TIMEOUT)
                queue = f"{topic}-worker@{topic}"
                await eventually(lambda: _left(rabbitmq_server, queue) == 0, TIMEOUT)
        assert await database.effects() == list(range(20))
        assert await database.rows() == 20


async def _has(database: SQLAlchemyInboxDatabase, count: int) -> bool:
    return len(set(await database.effects())) == count


def _left(server: RabbitMQServer, queue: str) -> int:
    with Client(server.url) as client:
        return client.count(queue) + client.count(f"{queue}:quarantine")


async def test_28_the_effect_of_a_handler_whose_connection_was_lost_happens_once(
    rabbitmq_server: RabbitMQServer,
) -> None:
    topic, gate = Topic(f"inbox-{uuid4().hex[:8]}"), asyncio.Event()
    async with on_server("postgresql+asyncpg") as database:

        async def handle(event: IntegrationEvent) -> None:
            assert isinstance(event, Numbered)
            await database.write(event.number)
            await gate.wait()

        probe = Probe(f"{topic.name}-worker", handle)
        registration = IntegrationEventBusRegistration(probe, topic, [Numbered], concurrency=3)
        async with RabbitMQIntegrationEventBus(
            rabbitmq_server.url, [registration], middlewares=[database.inbox]
        ) as bus:
            await bus.send_many(topic, map(Numbered, range(3)))
            await eventually(lambda: len(probe.running) == 3, TIMEOUT)
            await eventually(rabbitmq_server.knows_its_quorum_queues, TIMEOUT)
            await asyncio.to_thread(rabbitmq_server.restart)
            await eventually(lambda: bus.health().connected, TIMEOUT)
            gate.set()
            queue = f"{topic.name}-worker@{topic.name}"
            await eventually(lambda: _has(database, 3), TIMEOUT)
            await eventually(lambda: _left(rabbitmq_server, queue) == 0, TIMEOUT)
        assert (await database.effects(), await database.rows()) == ([0, 1, 2], 3)


# --- the database goes away -------------------------------------------------------------------


@asynccontextmanager
async def on_private_server(
    driver: str,
) -> AsyncGenerator[tuple[PrivateServer, SQLAlchemyInboxDatabase]]:
    kind = driver.partition("+")[0]
    with PRIVATE[kind]() as server, new_database(kind, server.url) as there:
        async with created(there.url(driver)) as database:
            yield server, database


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("step", ["before", "handling", "committing"])
async def test_a_database_that_dies_at_each_step_loses_and_doubles_nothing(
    driver: str, step: str
) -> None:
    topic, attempts = Topic("orders"), 0
    async with on_private_server(driver) as (server, database):

        async def handle(event: IntegrationEvent) -> None:
            nonlocal attempts
            assert isinstance(event, Numbered)
            attempts += 1
            if attempts == 1 and step == "handling":
                await asyncio.to_thread(server.restart)
            await database.write(event.number)
            if attempts == 1 and step == "committing":
                await asyncio.to_thread(server.restart)

        # What happens before the handler is called is no attempt of its: none is left to fail.
        retry = RetryPolicy(attempts=1 if step == "before" else 2, delay=0.1)
        registration = IntegrationEventBusRegistration(
            Probe("worker", handle), topic, [Numbered], retry=retry
        )
        bus = InMemoryIntegrationEventBus([registration], middlewares=[database.inbox])
        async with bus:
            if step == "before":
                await asyncio.to_thread(server.kill)
                await bus.send(topic, Numbered(1))
                await asyncio.to_thread(server.start)
            else:
                await bus.send(topic, Numbered(1))
            await until_quiet(bus, TIMEOUT)
            assert await bus.dead_letters("worker") == []
        assert (await database.effects(), await database.rows()) == ([1], 1)
        assert attempts == (1 if step == "before" else 2)


@pytest.mark.parametrize("driver", ["mariadb+asyncmy", "mysql+asyncmy"])
async def test_a_deadlock_that_the_handler_swallows_is_not_handled(driver: str) -> None:
    """MariaDB rolls the whole transaction back, and SQLAlchemy does not know."""
    async with on_server(driver) as database:
        await _deadlock(database)


async def _deadlock(database: SQLAlchemyInboxDatabase) -> None:
    topic = Topic("orders")
    swallowed: list[int] = []
    locked = {1: asyncio.Event(), 2: asyncio.Event()}
    async with database.engine.begin() as connection:
        await connection.execute(text("INSERT INTO effects (id, number) VALUES (1, 1), (2, 2)"))

    async def handle(event: IntegrationEvent) -> None:
        assert isinstance(event, Numbered)
        mine, others = event.number, 3 - event.number
        lock = text("SELECT id FROM effects WHERE id = :id FOR UPDATE")
        await current_session().execute(lock, {"id": mine})
        locked[mine].set()
        await locked[others].wait()
        try:
            await current_session().execute(lock, {"id": others})
        except Exception:  # noqa: BLE001 - the mistake that this is about
            swallowed.append(mine)

    registration = IntegrationEventBusRegistration(
        Probe("worker", handle), topic, [Numbered], concurrency=2, retry=RetryPolicy(attempts=1)
    )
    async with InMemoryIntegrationEventBus([registration], middlewares=[database.inbox]) as bus:
        await bus.send_many(topic, [Numbered(1), Numbered(2)])
        await until_quiet(bus, TIMEOUT)
        (letter,) = await bus.dead_letters("worker")
    assert len(swallowed) == 1
    assert "a statement of the handler failed" in letter.error
    assert await database.rows() == 1
