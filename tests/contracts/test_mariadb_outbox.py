from collections.abc import AsyncGenerator

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from events.testing.contracts.outbox import OutboxContract
from events.testing.contracts.relays import RelaysContract
from tests.contracts.sqlalchemy_outbox import SQLAlchemyDatabase
from tests.databases.database import new_database


class TestMariaDBOutbox(OutboxContract, RelaysContract):
    @pytest.fixture
    async def database(self) -> AsyncGenerator[SQLAlchemyDatabase]:
        with new_database("mariadb") as made:
            engine = create_async_engine(made.url("mariadb+asyncmy"))
            database = SQLAlchemyDatabase(engine)
            await database.create()
            yield database
            await engine.dispose()
