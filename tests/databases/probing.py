"""Which database server the tests use: one that is named, one that is there, or one of their own."""

from __future__ import annotations

import asyncio
import atexit
import os
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from tests.servers import PrivateServer, listens

# How tests talk to a server themselves, whatever driver is under test.
DRIVERS = {"postgresql": "postgresql+asyncpg", "mariadb": "mariadb+asyncmy"}


def execute(url: str, statements: Iterable[str]) -> list[Sequence[Any]]:
    """Run statements outside of any transaction, and return the rows of the last one.

    It blocks, and may be called within an event loop, so that what it does is done for a test that
    is cancelled as well.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _execute(url, list(statements))).result(150)


async def _execute(url: str, statements: list[str]) -> list[Sequence[Any]]:
    engine = create_async_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    rows: list[Sequence[Any]] = []
    async with asyncio.timeout(120), engine.connect() as connection:
        for statement in statements:
            result = await connection.execute(text(statement))
            rows = [*result] if result.returns_rows else []
    return rows


def first_that_answers(name: str, urls: Iterable[str]) -> str | None:
    """Return `EVENTS_TEST_<NAME>_URL`, else the first of these that accepts a connection, else None."""
    given = os.environ.get(f"EVENTS_TEST_{name.upper()}_URL")
    if given:
        # It must work: falling back to another server would hide the mistake.
        found = make_url(given).set(drivername=DRIVERS[name]).render_as_string(hide_password=False)
        execute(found, ["SELECT 1"])
        return found
    for url in urls:
        parts = make_url(url)
        if not listens(parts.host or "", parts.port or 0):
            continue
        try:
            execute(url, ["SELECT 1"])
        except (DBAPIError, OSError, TimeoutError):
            continue  # it does not know this user, or wants a password
        return url
    return None


def private_until_the_end(kind: type[PrivateServer]) -> str:
    """Start a server that lives as long as the tests, and return its URL."""
    folder = tempfile.TemporaryDirectory(prefix=f"events-{kind.name}-")
    server = kind(Path(folder.name))
    server.start()
    atexit.register(folder.cleanup)
    atexit.register(server.__exit__, None, None, None)  # the last one registered is the first run
    return make_url(server.url).set(drivername=DRIVERS[kind.name]).render_as_string()
