"""The servers that the database tests stand on: found, or started, killed, frozen, restarted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC

import psutil  # type: ignore[import-untyped]
import pytest
from sqlalchemy import MetaData, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from events.integration import IntegrationEvent, Topic
from events.integration.implementation.sqlalchemy import (
    AT_ONCE,
    SQLAlchemyOutbox,
    outbox_table,
)
from tests.databases import mariadb_server, postgresql_server
from tests.databases.database import Database, new_database
from tests.databases.probing import execute, first_that_answers
from tests.servers import PrivateServer

DRIVERS = ["postgresql+asyncpg", "postgresql+psycopg", "mariadb+asyncmy", "mysql+asyncmy"]


def kind_of(driver: str) -> str:
    return "postgresql" if driver.startswith("postgresql") else "mariadb"


class Renamed(IntegrationEvent):
    type = "tests.databases.renamed"
    version = 1


@pytest.mark.parametrize("driver", DRIVERS)
async def test_an_event_is_put_and_read_back(driver: str) -> None:
    table = outbox_table(MetaData())
    with new_database(kind_of(driver)) as database:
        engine = create_async_engine(database.url(driver))
        try:
            async with engine.begin() as connection:
                await connection.run_sync(table.metadata.create_all)
            async with AsyncSession(engine) as session, session.begin():
                event_id = await SQLAlchemyOutbox(session).put(
                    Topic("users"), Renamed(), key="Ключ", headers={"tenant": "ä"}
                )
            async with engine.connect() as connection:
                (row,) = await connection.execute(select(table))
            assert (row.event_id, row.topic, row.key) == (event_id, "users", "Ключ")
            assert (row.type, row.attempts) == (Renamed.type, 0)
            assert row.available_at.replace(tzinfo=UTC) == AT_ONCE
            assert row.body == b'{"type":"tests.databases.renamed","version":1}'
        finally:
            await engine.dispose()


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
async def test_a_database_is_dropped_though_a_connection_holds_it(kind: str) -> None:
    with new_database(kind) as database:
        engine = create_async_engine(make(database))
        connection = await engine.connect()
        await connection.execute(text("CREATE TABLE held (id INTEGER)"))
        await connection.commit()
        await connection.execute(text("INSERT INTO held VALUES (1)"))  # a transaction, left open
        assert database.name in names(database)
    assert database.name not in names(database)
    with pytest.raises(DBAPIError):
        await connection.commit()
    await connection.invalidate()
    await connection.close()
    await engine.dispose()


def test_a_database_is_dropped_when_its_test_fails() -> None:
    made: list[Database] = []

    def fail() -> None:
        with new_database("postgresql") as database:
            made.append(database)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert made[0].name not in names(made[0])


def make(database: Database) -> str:
    url = database.url(database.server.split(":")[0])
    return url.render_as_string(hide_password=False)


def names(database: Database) -> set[str]:
    query = (
        "SELECT datname FROM pg_database"
        if database.server.startswith("postgresql")
        else "SHOW DATABASES"
    )
    return {row[0] for row in execute(database.server, [query])}


def test_a_server_that_is_named_and_does_not_answer_is_no_other_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EVENTS_TEST_POSTGRESQL_URL", "postgresql://nobody@127.0.0.1:1/postgres")
    with pytest.raises((OSError, DBAPIError)):
        first_that_answers("postgresql", [postgresql_server.postgresql_url()])


def test_nothing_that_answers_is_none() -> None:
    assert first_that_answers("mariadb", ["mariadb+asyncmy://root@127.0.0.1:1"]) is None


@pytest.mark.parametrize(
    ("kind", "private"),
    [
        ("postgresql", postgresql_server.private_server),
        ("mariadb", mariadb_server.private_server),
    ],
)
async def test_a_private_server_is_killed_frozen_and_restarted(
    kind: str, private: Callable[[], AbstractContextManager[PrivateServer]]
) -> None:
    with private() as server, new_database(kind, server.url) as database:
        engine = create_async_engine(make(database), pool_pre_ping=True)

        async def count() -> int:
            async with engine.begin() as connection:
                await connection.execute(text("INSERT INTO kept VALUES (1)"))
                result = await connection.execute(text("SELECT COUNT(*) FROM kept"))
                return int(result.scalar_one())

        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE kept (id INTEGER)"))
        assert await count() == 1
        await asyncio.to_thread(server.restart)
        assert await count() == 2  # what was committed survived the crash

        server.freeze()
        counting = asyncio.create_task(count())
        await asyncio.wait([counting], timeout=0.5)
        assert not counting.done()
        server.thaw()
        assert await counting == 3

        pid = server._process and server._process.pid
        server.kill()
        assert pid is not None
        assert not psutil.pid_exists(pid)
        with pytest.raises((DBAPIError, OSError)):
            await count()
        await asyncio.to_thread(server.start)
        assert await count() == 4
        await engine.dispose()
