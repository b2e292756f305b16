import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

import pytest
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from events.testing.contracts.outbox import OutboxContract
from events.testing.contracts.recurring import RecurringContract
from events.testing.contracts.relays import RelaysContract
from events.testing.contracts.schedules import SchedulesContract
from tests.contracts.sqlalchemy_outbox import SQLAlchemyDatabase
from tests.databases.database import new_database
from tests.unit.integration_events.outbox_table import row


class TestMariaDBOutbox(OutboxContract, RelaysContract, SchedulesContract, RecurringContract):
    @pytest.fixture
    async def database(self) -> AsyncGenerator[SQLAlchemyDatabase]:
        with new_database("mariadb") as made:
            engine = create_async_engine(made.url("mariadb+asyncmy"))
            database = SQLAlchemyDatabase(engine)
            await database.create()
            yield database
            await engine.dispose()

    async def test_removing_and_deferring_wait_for_no_row_that_is_not_committed(
        self, database: SQLAlchemyDatabase
    ) -> None:
        numbers = range(1, 21)
        for number in numbers:
            await database.insert(row(number))
        engine = database.engine
        async with AsyncSession(engine) as session, asyncio.timeout(40):
            await session.execute(insert(database.table).values(await _as_written(engine)))
            await database.store.defer(numbers[:10], datetime.now(UTC))
            await database.store.remove(numbers)
            assert (await database.store.backlog()).pending == 0


async def _as_written(engine: AsyncEngine) -> dict[str, object]:
    async with engine.connect() as connection:
        found = await connection.execute(text("SELECT * FROM outbox ORDER BY id LIMIT 1"))
        return {**found.mappings().one(), "id": 100}
