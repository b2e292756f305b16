from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from events.integration.implementation.sqlalchemy import enable_wal
from events.testing.contracts.outbox import OutboxContract
from events.testing.contracts.recurring import RecurringContract
from events.testing.contracts.relays import RelaysContract
from events.testing.contracts.schedules import SchedulesContract
from tests.contracts.sqlalchemy_outbox import SQLAlchemyDatabase


class TestSQLiteOutbox(OutboxContract, RelaysContract, SchedulesContract, RecurringContract):
    @pytest.fixture
    async def database(self, tmp_path: Path) -> AsyncGenerator[SQLAlchemyDatabase]:
        # So long one waits for another's commit, on a busy machine.
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/outbox.db?timeout=60")
        await enable_wal(engine)
        database = SQLAlchemyDatabase(engine)
        await database.create()
        yield database
        await engine.dispose()
