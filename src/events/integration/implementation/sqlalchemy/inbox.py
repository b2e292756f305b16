"""`SQLAlchemyInbox`: the effect of each event once, however often it is delivered.

    delivery --> claim the row (consumer, message id)
        |--> it is there: acknowledged, the handler is not called
        '--> it is new: handler --> returned: commit, effects and row together
                           '------> raised: roll back both; the retry policy goes on

The insert comes first and takes the row's lock, so of two deliveries of one event at the same time
one waits for the other's end. A database that is locked, or away, before the handler was called is
waited for, and costs no attempt; what happens after that is an attempt like any other.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from sqlalchemy import MetaData, StaticPool, Table
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

from events.errors import InboxError, InvalidTopologyError
from events.integration.brokering.backoff import Backoff
from events.integration.implementation.sqlalchemy._claim import Claim, connection_of
from events.integration.implementation.sqlalchemy._purging import Purge
from events.integration.implementation.sqlalchemy.inbox_table import (
    InboxTable,
    Row,
    inbox_table,
    message_key,
)
from events.integration.implementation.sqlalchemy.sessions import (
    Handling,
    Sessions,
    SessionSource,
    roll_back,
)
from events.integration.message import Delivery
from events.integration.observation import current_observer
from events.integration.pipeline import Handle, IncomingEvent, ManagedMiddleware, Serving

__all__ = ["REDRIVE_WINDOW", "SQLAlchemyInbox"]

logger = logging.getLogger("events.integration")

REDRIVE_WINDOW = timedelta(days=3)
"""How long a dead letter should be safe to redrive: a weekend. A shorter retention is warned of."""

_PERMANENT = (ProgrammingError, IntegrityError, DataError, NotSupportedError)


class SQLAlchemyInbox(ManagedMiddleware):
    """A middleware that has each event handled once, in one transaction with a row that says so.

    With an `async_sessionmaker` it opens a session for each attempt, which the handler gets from
    `current_session()`, and commits and closes it. With a function that returns the session of
    somebody else, such as `from_scope(AsyncSession)` of the dishka implementation, it commits that
    one, or rolls it back, and leaves the closing to its owner. Commit nothing in the handler: the
    row rides in the first commit, and what comes after that has no inbox.

    Several buses and processes may share a table. `handled` and `duplicates` count this one's.

    Args:
        sessions: An `async_sessionmaker`, or an async function without arguments.
        table: What `inbox_table` returned, if it was given a name or a schema.
        retention: How long rows are kept, and duplicates recognised with them; None for ever.
        purge_every: Seconds between two removals of older rows.
        timeout: Seconds to wait for a database that is locked or away, before that counts as a
            failed attempt.
    """

    def __init__(
        self,
        sessions: Sessions,
        *,
        table: Table | None = None,
        retention: timedelta | None = timedelta(days=7),
        purge_every: float = 600.0,
        timeout: float = 10.0,
    ) -> None:
        self._source = SessionSource(sessions)
        given: object = retention
        if not (given is None or (isinstance(given, timedelta) and given > timedelta(0))):
            raise ValueError(f"retention must be a timedelta above 0, or None, not {given!r}")
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:
            raise ValueError(f"timeout must be a number of seconds from 0 on, not {timeout!r}")
        self.retention = retention
        self.handled = 0
        self.duplicates = 0
        self._inbox = InboxTable(inbox_table(MetaData()) if table is None else table)
        self._purge = Purge(self._inbox, retention or timedelta.max, purge_every)
        self._timeout = timeout
        self._buses = 0
        self._aloof: set[str] = set()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._inbox.table.fullname!r})"

    # --- its life with a bus ------------------------------------------------------------------

    def check(self, serving: Serving) -> None:
        """Refuse a second inbox, and one in front of what it gets its sessions from.

        Warns of a retention that is shorter than what it has to cover.
        """
        inboxes = [each for each in serving.middlewares if isinstance(each, SQLAlchemyInbox)]
        if len(inboxes) > 1:
            raise InvalidTopologyError(
                repr(self),
                f"the bus has {len(inboxes)} inboxes, so the inner one would take each event for a "
                f"duplicate: keep one; consumers of another database get a bus of their own",
            )
        self._source.check(serving.middlewares[: serving.middlewares.index(self)])
        if self.retention is not None:
            window = timedelta(seconds=serving.retry.window)
            for needed, what in ((window, "retries"), (REDRIVE_WINDOW, "redriven dead letters")):
                if self.retention < needed:
                    logger.warning(
                        "%r forgets after %s what %s has handled, but %s may come for %s, and "
                        "would be handled twice: raise retention=",
                        self,
                        self.retention,
                        serving.registration,
                        what,
                        needed,
                    )

    async def startup(self) -> None:
        """Look for the table, if the sessions are its own, and begin to purge.

        Raises `InboxTableError`, and `InboxError` for an engine in AUTOCOMMIT, which rolls nothing
        back. A database that is away only makes it log: it may come back.
        """
        if self._source.maker is not None:
            try:
                async with self._source.session() as session:
                    await session.run_sync(self._require)
            except (DBAPIError, OSError) as error:
                logger.warning("%r cannot look for its table yet: %s", self, error)
        self._buses += 1
        if self.retention is not None:
            self._purge.begin()

    async def shutdown(self) -> None:
        """Stop purging when the last bus stops."""
        self._buses -= 1
        if not self._buses:
            await self._purge.end()

    def _require(self, session: Session) -> None:
        """Look at the table once, and remember the engine for `purge`."""
        connection = connection_of(session, self._inbox)
        self._inbox.require(connection)
        if isinstance(connection.engine.pool, StaticPool):
            logger.warning(
                "%r: %r shares one connection among all its users, so they share a transaction "
                "too, and effects may happen twice or not at all: use a file",
                self,
                connection.engine.url,
            )
        self._purge.engine = connection.engine

    async def purge(self) -> int:
        """Remove rows older than the retention, in batches of their own, and say how many.

        Deliveries are held up by one batch at most. Raises `InboxError` where nothing tells the
        database yet: with sessions of somebody else, before the first event.
        """
        if self.retention is None:
            return 0
        if self._purge.engine is None:
            raise InboxError(
                f"{self!r} knows no engine yet: it gets to know it at startup from an "
                f"async_sessionmaker, else from the session of the first event"
            )
        return await self._purge.once(self._purge.engine)

    # --- around a handler ---------------------------------------------------------------------

    async def __call__(self, incoming: IncomingEvent, call_next: Handle, /) -> None:
        """Claim the event's row, call the handler, commit both."""
        delivery = incoming.delivery
        async with self._source.session() as session:
            claim = await self._claim(session, _row(delivery))
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
        if self._source.maker is not None and not handling.asked:
            self._warn_of(delivery.consumer)

    async def _claim(self, session: AsyncSession, row: Row) -> Claim:
        """Insert the row; wait for a database that is locked or away, as far as timeout goes."""
        # A transaction that somebody has begun is theirs: it cannot be begun anew from here.
        timeout = 0.0 if session.in_transaction() else self._timeout
        loop = asyncio.get_running_loop()
        deadline, backoff = loop.time() + timeout, Backoff(0.05, 1.0)
        while True:
            try:
                return await session.run_sync(self._claim_now, row)
            except BaseException as error:
                await roll_back(session, error)
                pause = backoff.take()
                if not _temporary(error) or loop.time() + pause > deadline:
                    raise
                logger.debug("%r waits for its database: %s", self, error)
            await asyncio.sleep(pause)

    def _claim_now(self, session: Session, row: Row) -> Claim:
        if self._purge.engine is None:
            self._require(session)
        return Claim(session, self._inbox, row)

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
                "%s handled an event without current_session(): what it wrote to a database, if it "
                "did, was not in the inbox's transaction, and may happen twice. (Said once.)",
                consumer,
            )


def _row(delivery: Delivery) -> Row:
    return {
        "consumer": delivery.consumer,
        "message_id": message_key(delivery),
        "handled_at": datetime.now(UTC),
    }


def _temporary(error: BaseException) -> bool:
    """Tell whether waiting may help: a lock, a deadlock, a server that is down or starting."""
    kinds = (DBAPIError, OSError, PoolTimeoutError)
    return isinstance(error, kinds) and not isinstance(error, _PERMANENT)
