"""Connections whose errors are those of a bus: a database that is down is a broker out of reach."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from events.errors import BusUnavailableError
from events.integration.implementation.sqlalchemy import _opening
from events.integration.pipeline.retry import describe


@asynccontextmanager
async def connected(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """Open a connection. Raises `BusUnavailableError` for what fails with it."""
    with _as_unavailable(engine):
        async with _opening.connected(engine) as connection:
            yield connection


@asynccontextmanager
async def begun(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """Open one with a transaction that commits at the exit; otherwise as `connected`."""
    with _as_unavailable(engine):
        async with _opening.begun(engine) as connection:
            yield connection


@contextmanager
def _as_unavailable(engine: AsyncEngine) -> Generator[None]:
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        said = str(error.orig) if isinstance(error, DBAPIError) else describe(error)
        raise BusUnavailableError(f"the bus on {engine.url!r}", said) from error
