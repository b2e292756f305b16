from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from events.integration.implementation.sqlalchemy import enable_wal
from examples.user_registration.user_service.infrastructure.tables import mapper


@asynccontextmanager
async def database(url: str) -> AsyncGenerator[AsyncEngine]:
    """Open the database, with its tables made, and close it in the end."""
    engine = create_async_engine(url)
    try:
        if engine.dialect.name == "sqlite":
            await enable_wal(engine)
        async with engine.begin() as connection:
            await connection.run_sync(mapper.metadata.create_all)
        yield engine
    finally:
        await engine.dispose()
