from collections.abc import AsyncGenerator

import pytest

from events.testing.contracts.inbox import InboxContract
from tests.contracts.sqlalchemy_inbox import SQLAlchemyInboxDatabase, on_server


class TestAsyncpgInbox(InboxContract):
    @pytest.fixture
    async def database(self) -> AsyncGenerator[SQLAlchemyInboxDatabase]:
        async with on_server("postgresql+asyncpg") as database:
            yield database


class TestPsycopgInbox(InboxContract):
    @pytest.fixture
    async def database(self) -> AsyncGenerator[SQLAlchemyInboxDatabase]:
        async with on_server("postgresql+psycopg") as database:
            yield database
