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
from sqlalchemy.orm import Session

from events.errors import InboxError, InvalidTopologyError
from events.integration.implementation.sqlalchemy._claim import Claim, connection_of
from events.integration.implementation.sqlalchemy._purging import Purge
from events.integration.implementation.sqlalchemy._transactional import Transactional
from events.integration.implementation.sqlalchemy.inbox_table import (
    InboxTable,
    Row,
    inbox_table,
    message_key,
)
from events.integration.implementation.sqlalchemy.sessions import (
    Sessions,
)
from events.integration.message import Delivery
from events.integration.pipeline import Serving

__all__ = ["REDRIVE_WINDOW", "SQLAlchemyInbox"]

logger = logging.getLogger("events.integration")

REDRIVE_WINDOW = timedelta(days=3)
"""How long a dead letter should be safe to redrive: a weekend. A shorter retention is warned of."""

_PERMANENT = (ProgrammingError, IntegrityError, DataError, NotSupportedError)


class SQLAlchemyInbox(Transactional):
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
        super().__init__(sessions, timeout)
        given: object = retention
        if not (given is None or (isinstance(given, timedelta) and given > timedelta(0))):
            raise ValueError(f"retention must be a timedelta above 0, or None, not {given!r}")
        self.retention = retention
        self._inbox = InboxTable(inbox_table(MetaData()) if table is None else table)
        self._purge = Purge(self._inbox, retention or timedelta.max, purge_every)
        self._buses = 0

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

    def claim_now(self, session: Session, delivery: Delivery) -> Claim:
        """See `Transactional.claim_now`."""
        if self._purge.engine is None:
            self._require(session)
        return Claim(session, self._inbox, _row(delivery))


def _row(delivery: Delivery) -> Row:
    return {
        "consumer": delivery.consumer,
        "message_id": message_key(delivery),
        "handled_at": datetime.now(UTC),
    }
