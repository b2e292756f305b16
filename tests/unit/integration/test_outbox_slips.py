"""What is given to the outbox by mistake, and what it says then."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase

from events.errors import OutboxError
from events.integration import OutboxRelay
from events.integration.implementation.memory import InMemoryIntegrationEventBus
from events.integration.implementation.sqlalchemy import enable_wal, outbox_table


class Base(DeclarativeBase):
    pass


async def test_a_sync_engine_has_no_wal_to_enable(tmp_path: Path) -> None:
    engine: Any = create_engine(f"sqlite:///{tmp_path}/a.db")
    with pytest.raises(TypeError, match="needs an AsyncEngine, not Engine: from sqlalchemy.ext"):
        await enable_wal(engine)


async def test_a_database_in_memory_has_no_wal() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    with pytest.raises(OutboxError, match="needs to be a database in a file, as in sqlite"):
        await enable_wal(engine)
    await engine.dispose()


async def test_other_databases_need_no_wal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/a.db")
    monkeypatch.setattr(engine.dialect, "name", "postgresql")
    with pytest.raises(OutboxError, match="is no SQLite database, .* leave enable_wal out"):
        await enable_wal(engine)


def test_a_declarative_base_is_not_its_metadata() -> None:
    given: Any = Base
    with pytest.raises(
        TypeError, match=r"needs a MetaData, not the class Base: pass Base.metadata"
    ):
        outbox_table(given)
    given = "outbox"
    with pytest.raises(TypeError, match=r"needs a MetaData, not 'outbox'$"):
        outbox_table(given)


def test_a_relay_needs_a_store() -> None:
    bus = InMemoryIntegrationEventBus()
    given: Any = create_async_engine("sqlite+aiosqlite://")
    with pytest.raises(
        TypeError, match=r"such as SQLAlchemyOutboxStore\(engine\), not AsyncEngine"
    ):
        OutboxRelay(given, bus)
    given = bus
    with pytest.raises(
        TypeError, match="needs an OutboxStore first, .* not InMemoryIntegrationEve"
    ):
        OutboxRelay(given, given)
