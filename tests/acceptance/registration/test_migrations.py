"""The tables as migrations make them: up, what `alembic check` says then, and down."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Connection, MetaData, inspect

from examples.user_registration import email_service, user_service
from examples.user_registration.chassis.database import open_database
from examples.user_registration.chassis.migrations import config, upgrade
from examples.user_registration.email_service.infrastructure import tables as email
from examples.user_registration.user_service.infrastructure import tables as users
from tests.acceptance.registration.scenario import Databases

SERVICES = {
    "user_service": (user_service.ALEMBIC, users.metadata),
    "email_service": (email_service.ALEMBIC, email.metadata),
}


async def tables(url: str) -> set[str]:
    def names(connection: Connection) -> set[str]:
        return set(inspect(connection).get_table_names())

    async with open_database(url) as engine, engine.connect() as connection:
        return await connection.run_sync(names)


@pytest.mark.parametrize("service", SERVICES)
async def test_up_makes_what_the_code_has_and_down_leaves_nothing(
    databases: Databases, service: str
) -> None:
    ini, metadata = SERVICES[service]
    url = databases.users

    await upgrade(ini, url)

    assert await tables(url) == {*metadata.tables, "alembic_version"}
    await asyncio.to_thread(command.check, config(ini, url))  # raises if it would change something

    await asyncio.to_thread(command.downgrade, config(ini, url), "base")

    assert await tables(url) == {"alembic_version"}
    await upgrade(ini, url)
    assert await tables(url) == {*metadata.tables, "alembic_version"}


@pytest.mark.parametrize("service", SERVICES)
async def test_a_table_that_no_migration_makes_is_noticed(
    databases: Databases, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ini, metadata = SERVICES[service]
    await upgrade(ini, databases.users)
    changed = MetaData()
    for name, table in metadata.tables.items():
        if name not in {"users", "inbox"}:
            table.to_metadata(changed)
    monkeypatch.setattr(users if service == "user_service" else email, "metadata", changed)

    with pytest.raises(Exception, match="New upgrade operations detected"):
        await asyncio.to_thread(command.check, config(ini, databases.users))


async def test_sqlite_is_switched_to_its_write_ahead_log(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.sqlite3"
    await upgrade(user_service.ALEMBIC, url)

    async with open_database(url) as engine, engine.connect() as connection:
        mode = (await connection.exec_driver_sql("PRAGMA journal_mode")).scalar_one()
    assert mode == "wal"
