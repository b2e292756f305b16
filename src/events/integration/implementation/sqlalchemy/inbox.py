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
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta

from sqlalchemy import MetaData, StaticPool, Table
from sqlalchemy.exc import DBAPIError
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
from events.integration.implementation.sqlalchemy.sessions import Sessions
from events.integration.message import Delivery, Message
from events.integration.pipeline import Serving

logger = logging.getLogger("events.integration")

REDRIVE_WINDOW = timedelta(days=3)
"""How long a dead letter should be safe to redrive: a weekend. A shorter retention is logged."""

_AT_ONCE = 500  # keys in one statement


class SQLAlchemyInbox(Transactional):
    """A middleware that handles each event once, in one transaction with a row that records it.

    With an `async_sessionmaker`, it opens a session for each attempt, which the handler gets from
    `current_session()`, and commits and closes it. With a function that returns another owner's
    session, such as `from_scope(AsyncSession)` of the dishka implementation, it commits or rolls
    back that session, and its owner closes it. Do not commit in the handler: the first commit
    includes the row, so later changes may be repeated.

    Several buses and processes may share a table. `handled` and `duplicates` count only this one.

    Args:
        sessions: An `async_sessionmaker`, or an async function without arguments.
        table: The result of `inbox_table`, if it has another name or a schema.
        retention: How long rows are kept and duplicates recognised; None means no limit.
        purge_every: Seconds between two removals of older rows.
        timeout: Seconds to wait for a database that is locked or down, before the attempt fails.
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
        """Refuse a second inbox, and an inbox in front of the middleware that provides its session.

        Logs a warning if the retention is shorter than retries or redrives may take.
        """
        inboxes = [each for each in serving.middlewares if isinstance(each, SQLAlchemyInbox)]
        if len(inboxes) > 1:
            raise InvalidTopologyError(
                repr(self),
                f"the bus has {len(inboxes)} inboxes, so the inner one would treat each event as a "
                f"duplicate: keep one; use another bus for consumers of another database",
            )
        self._source.check(serving.middlewares[: serving.middlewares.index(self)])
        if self.retention is not None:
            window = timedelta(seconds=serving.retry.window)
            for needed, what in ((window, "retries"), (REDRIVE_WINDOW, "redriven dead letters")):
                if self.retention < needed:
                    logger.warning(
                        "%r deletes after %s what %s has handled, but %s may arrive for %s, and "
                        "would be handled twice: increase retention=",
                        self,
                        self.retention,
                        serving.registration,
                        what,
                        needed,
                    )

    async def startup(self) -> None:
        """Check the table, if the inbox has its own sessions, and begin to purge.

        Raises `InboxTableError`, and `InboxError` for an engine in AUTOCOMMIT, which cannot roll
        back. A database that is down is only logged, because it may come back.
        """
        if self._source.maker is not None:
            try:
                async with self._source.session() as session:
                    await session.run_sync(self._require)
            except (DBAPIError, OSError) as error:
                logger.warning("%r cannot check its table yet: %s", self, error)
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
                "%r: %r shares one connection among all its users. They share a transaction "
                "too, so effects may happen twice or not at all: use a file",
                self,
                connection.engine.url,
            )
        self._purge.engine = connection.engine

    async def purge(self) -> int:
        """Remove rows older than the retention, in separate batches, and return how many.

        Deliveries wait for at most one batch. Raises `InboxError` if the engine is not known yet:
        before the first event, without an `async_sessionmaker`.
        """
        if self.retention is None:
            return 0
        if self._purge.engine is None:
            raise InboxError(
                f"{self!r} has no engine yet: it takes the engine of its async_sessionmaker at "
                f"startup, or else that of the first event's session"
            )
        return await self._purge.once(self._purge.engine, asyncio.Lock())

    async def handled_at(
        self, consumers: Collection[str], messages: Iterable[Message]
    ) -> dict[tuple[str, str], datetime]:
        """Return when these consumers handled these events, by consumer and event id.

        Events that were never handled, or are older than the retention, are missing. Raises
        `InboxError` for an inbox without an `async_sessionmaker`.
        """
        if self._source.maker is None:
            raise InboxError(
                f"{self!r} has no sessions to read with: create it with an async_sessionmaker"
            )
        ids = {message_key(message): message.id for message in messages}
        found: dict[tuple[str, str], datetime] = {}
        async with self._source.session() as session:
            keys = list(ids)
            for start in range(0, len(keys), _AT_ONCE):
                some = keys[start : start + _AT_ONCE]
                rows = await session.run_sync(self._handled, consumers, some)
                found |= {(consumer, ids[key]): at for consumer, key, at in rows}
        return found

    def _handled(
        self, session: Session, consumers: Collection[str], keys: Collection[str]
    ) -> list[tuple[str, str, datetime]]:
        return self._inbox.handled(connection_of(session, self._inbox), consumers, keys)

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
