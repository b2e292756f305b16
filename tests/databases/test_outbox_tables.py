"""What the outbox says of tables that are not as it made them, on each database."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import MetaData, event, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from events.errors import InboxError, OutboxError, OutboxTableError
from events.integration import OutboxRelay, Topic
from events.integration.implementation.sqlalchemy import (
    SQLAlchemyInbox,
    SQLAlchemyOutbox,
    SQLAlchemyOutboxStore,
    inbox_table,
    outbox_table,
)
from events.integration.outbox import Lease
from events.integration.outbox.partitions import renew
from events.testing import eventually
from events.testing.contracts.inbox import Noted
from events.testing.contracts.outbox import ForwardedBus, pending
from tests.databases.database import new_database

DRIVERS = ["sqlite+aiosqlite", "postgresql+asyncpg", "postgresql+psycopg", "mariadb+asyncmy"]
ON_POSTGRESQL = ["postgresql+asyncpg", "postgresql+psycopg"]
TOPIC = Topic("tables")


@asynccontextmanager
async def engine_of(driver: str, folder: Path) -> AsyncGenerator[AsyncEngine]:
    """Give an engine, and the tables made."""
    kind = driver.split("+", maxsplit=1)[0]
    if kind == "sqlite":
        async with with_tables(f"{driver}:///{folder}/outbox.db") as engine:
            yield engine
        return
    with new_database(kind) as made:
        url = made.url(driver).render_as_string(hide_password=False)
        async with with_tables(url) as engine:
            yield engine


@asynccontextmanager
async def with_tables(url: str) -> AsyncGenerator[AsyncEngine]:
    engine = create_async_engine(make_url(url))
    metadata = MetaData()
    outbox_table(metadata)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    try:
        yield engine
    finally:
        await engine.dispose()


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_lock_row_that_cannot_be_made_is_reported_after_two_tries(
    driver: str, tmp_path: Path
) -> None:
    async with engine_of(driver, tmp_path) as engine:
        async with engine.begin() as connection:
            if engine.dialect.name == "sqlite":
                await connection.execute(text("DROP TABLE outbox_relays"))
                await connection.execute(
                    text(
                        "CREATE TABLE outbox_relays (relay TEXT PRIMARY KEY CHECK (relay <> ''), "
                        "token TEXT, partitions TEXT, lease_seconds FLOAT, expires_at TEXT)"
                    )
                )
            elif engine.dialect.name == "postgresql":
                column = "ADD COLUMN updated_by VARCHAR(30) NOT NULL"
                await connection.execute(text(f"ALTER TABLE outbox_relays {column}"))
        if engine.dialect.name == "mariadb":
            mode = "SET sql_mode = 'EMPTY_STRING_IS_NULL,STRICT_ALL_TABLES'"
            event.listen(engine.sync_engine, "connect", lambda raw, _: raw.cursor().execute(mode))
            await engine.dispose()
        statements: list[str] = []

        def note(*args: object) -> None:
            statements.append(str(args[2]))

        event.listen(engine.sync_engine, "before_cursor_execute", note)
        own = Lease("me", "token", frozenset(), 30.0, 0.0)
        store = SQLAlchemyOutboxStore(engine)
        with pytest.raises(OutboxTableError, match="by which relays lock one another out"):
            await store.renew(lambda leases: renew(leases, own))
        assert len([each for each in statements if each.startswith("INSERT")]) == 2

        if engine.dialect.name == "mariadb":
            return  # at its startup a relay refuses the mode
        async with OutboxRelay(store, ForwardedBus()) as relay:
            await eventually(lambda: relay.health().outage)
            assert "outbox_relays" in (relay.health().outage or "")


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_table_that_is_missing_is_reported_by_its_name(driver: str, tmp_path: Path) -> None:
    async with engine_of(driver, tmp_path) as engine:
        async with engine.begin() as connection:
            await connection.execute(text("ALTER TABLE outbox RENAME TO elsewhere"))
        async with AsyncSession(engine) as session:
            await SQLAlchemyOutbox(session).put(TOPIC, Noted(1))
            with pytest.raises(OutboxTableError, match="outbox_table"):
                await session.commit()
            await session.rollback()


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_column_that_is_missing_is_reported_as_one(driver: str, tmp_path: Path) -> None:
    async with engine_of(driver, tmp_path) as engine:
        async with engine.begin() as connection:
            await connection.execute(text("ALTER TABLE outbox RENAME COLUMN version TO revision"))
        async with AsyncSession(engine) as session:
            await SQLAlchemyOutbox(session).put(TOPIC, Noted(1))
            with pytest.raises(OutboxTableError, match="version"):
                await session.commit()
            await session.rollback()


@pytest.mark.parametrize("driver", ON_POSTGRESQL)
async def test_what_else_does_not_exist_is_not_reported_as_the_table(
    driver: str, tmp_path: Path
) -> None:
    async with engine_of(driver, tmp_path) as engine:
        async with engine.begin() as connection:
            for statement in (
                "CREATE FUNCTION calls() RETURNS trigger LANGUAGE plpgsql "
                "AS 'BEGIN PERFORM nobody(); RETURN NEW; END'",
                "CREATE TRIGGER audits BEFORE INSERT ON outbox "
                "FOR EACH ROW EXECUTE FUNCTION calls()",
            ):
                await connection.execute(text(statement))
        async with AsyncSession(engine) as session:
            await SQLAlchemyOutbox(session).put(TOPIC, Noted(1))
            with pytest.raises(DBAPIError, match="does not exist"):
                await session.commit()
            await session.rollback()


async def test_a_prepared_statement_that_is_gone_is_not_reported_as_the_table(
    tmp_path: Path,
) -> None:
    async with (
        engine_of("postgresql+asyncpg", tmp_path) as engine,
        engine.connect() as connection,
    ):
        await SQLAlchemyOutbox(connection).put(TOPIC, Noted(1))
        # As behind PgBouncer, where another connection of the server has not prepared it.
        await connection.execute(text("DEALLOCATE ALL"))
        with pytest.raises(DBAPIError, match="prepared statement"):
            await SQLAlchemyOutbox(connection).put(TOPIC, Noted(1))
        await connection.rollback()


def test_the_tables_of_a_metadata_with_a_schema_are_added_once() -> None:
    for make in outbox_table, inbox_table:
        metadata = MetaData(schema="app")
        assert make(metadata) is make(metadata)
        assert make(metadata, schema="other") is not make(metadata)
        assert make(metadata, schema="app") is make(metadata)


@pytest.mark.parametrize("mode", ["NO_BACKSLASH_ESCAPES", "EMPTY_STRING_IS_NULL"])
@pytest.mark.parametrize("driver", ["mariadb+asyncmy", "mysql+asyncmy"])
async def test_modes_that_change_what_is_stored_are_refused_before_anything_is(
    driver: str, mode: str
) -> None:
    with new_database("mariadb") as made:
        url = made.url(driver).render_as_string(hide_password=False)
        command = f"SET sql_mode = 'STRICT_ALL_TABLES,{mode}'"
        wrong = create_async_engine(url, connect_args={"init_command": command})
        async with with_tables(url) as engine:
            async with AsyncSession(wrong) as session:
                await SQLAlchemyOutbox(session).put(TOPIC, Noted(1))
                with pytest.raises(OutboxError, match=f"sql_mode {mode}"):
                    await session.commit()
                await session.rollback()
            async with wrong.connect() as connection:
                with pytest.raises(OutboxError, match=f"sql_mode {mode}"):
                    await SQLAlchemyOutbox(connection).put(TOPIC, Noted(1))
                await connection.rollback()
            with pytest.raises(OutboxError, match=f"sql_mode {mode}"):
                await OutboxRelay(SQLAlchemyOutboxStore(wrong), ForwardedBus()).startup()
            with pytest.raises(InboxError, match=f"sql_mode {mode}"):
                await SQLAlchemyInbox(async_sessionmaker(wrong)).startup()
            async with AsyncSession(engine) as session:
                await SQLAlchemyOutbox(session).put(TOPIC, Noted(1), key="a\\b'c")
                await session.commit()
            (row,) = await pending(SQLAlchemyOutboxStore(engine))
            assert row.message.key == "a\\b'c"
        await wrong.dispose()
