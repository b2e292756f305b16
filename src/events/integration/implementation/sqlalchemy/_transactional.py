"""Handling an event in one transaction with a row that belongs to it.

A middleware opens the session, or borrows it, claims the row of the delivery, calls the handler,
and commits both. Which row that is, is the business of who inherits: the inbox inserts one that
says that the event was handled, the bus on a database deletes the one that it was delivered from.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod

from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from events.integration.brokering.backoff import Backoff
from events.integration.implementation.sqlalchemy._claim import Claim, watch_sessions
from events.integration.implementation.sqlalchemy.sessions import (
    Handling,
    Sessions,
    SessionSource,
    roll_back,
)
from events.integration.message import Delivery
from events.integration.observation import current_observer
from events.integration.pipeline import Handle, IncomingEvent, ManagedMiddleware

logger = logging.getLogger("events.integration")

_PERMANENT = (ProgrammingError, IntegrityError, DataError, NotSupportedError)


class Transactional(ManagedMiddleware):
    """A middleware that has each event handled in one transaction with its row.

    `handled` and `duplicates` count.
    """

    def __init__(self, sessions: Sessions, timeout: float) -> None:
        self._source = SessionSource(sessions)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:
            raise ValueError(f"timeout must be a number of seconds of 0 or more, not {timeout!r}")
        self.handled = 0
        self.duplicates = 0
        self._timeout = timeout
        watch_sessions()
        self._aloof: set[str] = set()

    async def __call__(self, incoming: IncomingEvent, call_next: Handle, /) -> None:
        """Claim the event's row, call the handler, commit both."""
        delivery = incoming.delivery
        async with self._source.session() as session:
            claim = await self._claim(session, delivery)
            if claim.is_duplicate():
                await session.rollback()
                self._absorb(delivery)
                return
            handling = Handling(session)
            try:
                with handling.current():
                    await call_next(incoming)
                await session.run_sync(claim.commit)
            except BaseException as error:
                await roll_back(session, error)
                if claim.is_duplicate() and isinstance(error, Exception):
                    self._absorb(delivery)
                    return
                raise
            finally:
                claim.release()
        self.handled += 1
        self.committed(delivery)
        if self._source.maker is not None and not handling.asked:
            self._warn_of(delivery.consumer)

    async def _claim(self, session: AsyncSession, delivery: Delivery) -> Claim:
        """Claim the row; wait for a database that is locked or away, as far as timeout goes."""
        # A transaction that the caller has begun cannot be restarted from here.
        timeout = 0.0 if session.in_transaction() else self._timeout
        loop = asyncio.get_running_loop()
        deadline, backoff = loop.time() + timeout, Backoff(0.05, 1.0)
        while True:
            try:
                return await session.run_sync(self.claim_now, delivery)
            except BaseException as error:
                await roll_back(session, error)
                pause = backoff.take()
                if not _temporary(error) or loop.time() + pause > deadline:
                    raise
                logger.debug("%r waits for its database: %s", self, error)
            await asyncio.sleep(pause)

    def committed(self, delivery: Delivery) -> None:
        """Take note that the effects of this delivery, and its row, are committed."""

    @abstractmethod
    def claim_now(self, session: Session, delivery: Delivery) -> Claim:
        """Claim the row of this delivery in the session, or find that another process has it."""

    def _absorb(self, delivery: Delivery) -> None:
        self.duplicates += 1
        observer = current_observer()
        if observer is not None:
            observer.duplicate(delivery)
        logger.debug(
            "%s has handled %s from topic %r before: acknowledged",
            delivery.consumer,
            delivery.id,
            delivery.topic,
        )

    def _warn_of(self, consumer: str) -> None:
        if consumer not in self._aloof:
            self._aloof.add(consumer)
            logger.warning(
                "%s handled an event without current_session(). If it wrote to a database, that "
                "was not in the event's transaction and may happen twice. This is logged once",
                consumer,
            )


def _temporary(error: BaseException) -> bool:
    """Return whether waiting may help: a lock, a deadlock, a server that is down or starting."""
    kinds = (DBAPIError, OSError, PoolTimeoutError)
    return isinstance(error, kinds) and not isinstance(error, _PERMANENT)
