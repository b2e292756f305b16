"""Removing old rows of the inbox: now and then, in small transactions, in no delivery's way."""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, StaticPool
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from events.integration.implementation.sqlalchemy._opening import at_level, begun, connected
from events.integration.implementation.sqlalchemy.inbox_table import InboxTable
from events.integration.pipeline.cancelling import Background

logger = logging.getLogger("events.integration")

_BATCH = 1_000


class Purge:
    """Remove what is older than the retention, on a timer or when asked to."""

    def __init__(self, inbox: InboxTable, retention: timedelta, every: float) -> None:
        self.engine: Engine | None = None  # known when the first session is
        self._inbox = inbox
        self._retention = retention
        self._every = every
        self._purging: Background | None = None

    def begin(self) -> None:
        """Start the timer, if it does not run."""
        if self._purging is None:
            self._purging = Background(self._run)

    async def end(self) -> None:
        """Stop the timer, and return when it has stopped."""
        purging, self._purging = self._purging, None
        if purging is not None:
            await purging.end()

    async def once(self, sync_engine: Engine, calling: asyncio.Lock) -> int:
        """Remove what is old by now, and say how many rows that were."""
        engine, before, removed = AsyncEngine(sync_engine), datetime.now(UTC) - self._retention, 0
        if engine.dialect.name in {"mysql", "mariadb"}:
            # Else a row that another process has removed leaves a lock on the gap where it was.
            engine = at_level(engine, "READ COMMITTED")
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            async with calling:
                async with connected(engine) as connection:
                    keys = await connection.run_sync(self._inbox.expired, before, _BATCH)
                if keys:
                    async with begun(engine) as connection:
                        await connection.run_sync(self._inbox.remove, keys, before)
            removed += len(keys)
            if len(keys) < _BATCH:
                return removed
            await asyncio.sleep(loop.time() - began)  # the other half of the time is the others'

    async def _run(self, calling: asyncio.Lock) -> None:
        while True:
            # Processes that start together do not purge together.
            await asyncio.sleep(self._every * random.uniform(0.5, 1))  # noqa: S311 - no secret
            # A connection that is shared with handlers is in the middle of their transactions.
            if self.engine is None or isinstance(self.engine.pool, StaticPool):
                continue
            try:
                removed = await self.once(self.engine, calling)
            except (SQLAlchemyError, OSError) as error:
                logger.warning("cannot remove old rows of the inbox: %s", error)
            else:
                if removed:
                    logger.info("removed %d rows of the inbox", removed)
