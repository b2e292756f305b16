"""An engine for as long as it is needed; SQLite and PostgreSQL differ by the URL alone."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Table, make_url, select
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

# What people have in their environment names no driver, and the services need an async one.
_ASYNC = {
    "sqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
}
_LOCK_WAIT = 15  # seconds that a writer of SQLite waits for another


def async_url(given: str) -> str:
    """Return the URL with an async driver; ValueError says what is wrong with it."""
    scheme, colon, rest = given.partition(":")
    url = f"{_ASYNC.get(scheme, scheme)}{colon}{rest}"
    try:
        backend = make_url(url).get_backend_name()
    except ArgumentError:
        backend = ""
    if backend not in {"sqlite", "postgresql"}:
        raise ValueError(
            "give a database as in sqlite:///users.sqlite3 or postgresql://user@host/users"
        )
    return url


def create_engine(url: str) -> AsyncEngine:
    """Make an engine; that the tables are there is the migrations' business."""
    url = async_url(url)
    options: dict[str, Any] = {"pool_pre_ping": True}  # a server may have been restarted meanwhile
    if make_url(url).get_backend_name() == "sqlite":
        options = {"connect_args": {"timeout": _LOCK_WAIT}}
    return create_async_engine(url, **options)


@asynccontextmanager
async def open_database(url: str) -> AsyncGenerator[AsyncEngine]:
    """Give an engine, and dispose of it in the end."""
    engine = create_engine(url)
    try:
        yield engine
    finally:
        await engine.dispose()


async def look_at(engine: AsyncEngine, table: Table) -> None:
    """Raise if the database cannot be reached, or nobody has made its tables."""
    async with engine.connect() as connection:
        await connection.execute(select(table).limit(1))
