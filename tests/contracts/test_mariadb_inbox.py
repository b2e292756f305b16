from collections.abc import AsyncGenerator

import pytest

from events.testing.contracts.inbox import InboxContract
from tests.contracts.sqlalchemy_inbox import SQLAlchemyInboxDatabase, on_server


class TestMariaDBInbox(InboxContract):
    @pytest.fixture
    async def database(self) -> AsyncGenerator[SQLAlchemyInboxDatabase]:
        async with on_server("mariadb+asyncmy") as database:
            yield database


@pytest.mark.confidence  # the same but for its name: what asks for that is in tests/databases
class TestMariaDBInboxAsMySQL(InboxContract):
    @pytest.fixture
    async def database(self) -> AsyncGenerator[SQLAlchemyInboxDatabase]:
        async with on_server("mysql+asyncmy") as database:
            yield database
