"""The outbox behind a URL alone, for programs without an engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.util import find_spec

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.ext.asyncio import create_async_engine

from events.errors import MissingExtraError
from events.integration.brokering.urls import masked
from events.integration.implementation.sqlalchemy.store import SQLAlchemyOutboxStore

# What URLs of other programs begin with, and the drivers of ours, the first one there counts.
_DRIVERS = {
    "postgresql": ("asyncpg", "psycopg"),
    "mariadb": ("asyncmy",),
    "mysql": ("asyncmy",),
    "sqlite": ("aiosqlite",),
}
_EXTRAS = {
    "aiosqlite": "sqlalchemy",
    "asyncpg": "postgresql",
    "psycopg": "psycopg",
    "asyncmy": "mariadb",
}
_ALIASES = {"postgres": "postgresql"}


def check_url(url: str) -> str:
    """Return the URL with an installed driver; raise ValueError if it cannot be used."""
    scheme, separator, rest = url.partition("://")
    database, _, driver = scheme.partition("+")
    database = _ALIASES.get(database, database)
    if database not in _DRIVERS:
        raise ValueError(f"{database!r}: the outbox runs on {', '.join(_DRIVERS)}")
    if not driver:
        drivers = _DRIVERS[database]
        driver = next((each for each in drivers if find_spec(each)), drivers[0])
    complete = f"{database}+{driver}{separator}{rest}"
    try:
        parsed = make_url(complete)
        is_async = parsed.get_dialect().get_async_dialect_cls(parsed).is_async
    except (NoSuchModuleError, ImportError):
        is_async = False
    except (ArgumentError, ValueError) as error:
        raise ValueError(f"{masked(url)!r} is not a URL of a database") from error
    if not is_async:
        raise ValueError(
            f"{driver!r} is not a driver for asyncio: omit it, as in {database}://..., or name "
            f"{' or '.join(_DRIVERS[database])}"
        )
    if driver in _EXTRAS and find_spec(driver) is None:
        raise MissingExtraError(f"{database}+{driver}", _EXTRAS[driver])
    return complete


@asynccontextmanager
async def store_at(url: str) -> AsyncGenerator[SQLAlchemyOutboxStore]:
    """Yield a store of the table `outbox` at the URL, with its own engine."""
    engine = create_async_engine(check_url(url))
    try:
        yield SQLAlchemyOutboxStore(engine)
    finally:
        await engine.dispose()
