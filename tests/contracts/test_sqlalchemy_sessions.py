from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from events.integration.implementation.sqlalchemy import enable_wal
from events.testing.contracts.sessions import SessionsContract
from tests.contracts.sqlalchemy_sessions import KINDS, SQLAlchemySessionsDatabase, through
from tests.databases.database import new_database

kinds = pytest.fixture(params=KINDS, ids=[kind.__name__ for kind in KINDS])


class TestSQLiteSessions(SessionsContract):
    @kinds
    async def database(
        self, tmp_path: Path, request: pytest.FixtureRequest
    ) -> AsyncGenerator[SQLAlchemySessionsDatabase]:
        url = make_url(f"sqlite+aiosqlite:///{tmp_path}/sessions.db")
        engine = create_async_engine(url)
        await enable_wal(engine)
        await engine.dispose()
        async with through(request.param, url) as database:
            yield database


class OnServer(SessionsContract):
    driver: str

    @kinds
    async def database(
        self, request: pytest.FixtureRequest
    ) -> AsyncGenerator[SQLAlchemySessionsDatabase]:
        kind = "postgresql" if self.driver.startswith("postgresql") else "mariadb"
        with new_database(kind) as there:
            async with through(request.param, there.url(self.driver)) as database:
                yield database


class TestAsyncpgSessions(OnServer):
    driver = "postgresql+asyncpg"


@pytest.mark.confidence  # sessions differ by their binds, not by the driver behind them
class TestPsycopgSessions(OnServer):
    driver = "postgresql+psycopg"


class TestMariaDBSessions(OnServer):
    driver = "mariadb+asyncmy"
