from collections.abc import AsyncGenerator

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from events.testing.contracts.outbox import OutboxContract
from events.testing.contracts.recurring import RecurringContract
from events.testing.contracts.relays import RelaysContract
from events.testing.contracts.schedules import SchedulesContract
from tests.contracts.sqlalchemy_outbox import SQLAlchemyDatabase
from tests.databases.database import new_database


class OnPostgreSQL:
    driver: str

    @pytest.fixture
    async def database(self) -> AsyncGenerator[SQLAlchemyDatabase]:
        with new_database("postgresql") as made:
            engine = create_async_engine(made.url(self.driver))
            database = SQLAlchemyDatabase(engine)
            await database.create()
            yield database
            await engine.dispose()


class TestPostgreSQLOutbox(
    OnPostgreSQL, OutboxContract, RelaysContract, SchedulesContract, RecurringContract
):
    driver = "postgresql+asyncpg"


class TestPsycopgOutbox(OnPostgreSQL, OutboxContract):
    driver = "postgresql+psycopg"


@pytest.mark.confidence  # the statements are those of asyncpg
class TestPsycopgRelays(OnPostgreSQL, RelaysContract, SchedulesContract, RecurringContract):
    driver = "postgresql+psycopg"
