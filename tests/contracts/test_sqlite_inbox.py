from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from events.integration.implementation.sqlalchemy import enable_wal
from events.testing.contracts.inbox import InboxContract
from tests.contracts.sqlalchemy_inbox import SQLAlchemyInboxDatabase, created


class TestSQLiteInbox(InboxContract):
    @pytest.fixture
    async def database(self, tmp_path: Path) -> AsyncGenerator[SQLAlchemyInboxDatabase]:
        async with created(make_url(f"sqlite+aiosqlite:///{tmp_path}/inbox.db")) as database:
            await enable_wal(database.engine)
            yield database


class TestSQLiteInboxWithoutWAL(InboxContract):
    @pytest.fixture
    async def database(self, tmp_path: Path) -> AsyncGenerator[SQLAlchemyInboxDatabase]:
        async with created(make_url(f"sqlite+aiosqlite:///{tmp_path}/inbox.db")) as database:
            yield database
