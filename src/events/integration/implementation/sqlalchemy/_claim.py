"""The row of one delivery in the session that handles it: first, and in the same commit.

    claim --row was there--> duplicate
      | inserted
      v
    claimed --commit, the handler's own or the inbox's--> kept
      ^   | rolled back by the handler
      |   v
      '-- lost: the next transaction of the session begins with the row again
              '--somebody else has claimed it meanwhile--> duplicate

    claimed --the session was closed, reset or invalidated--> ended: an error, and a retry

A rollback says that the handler wants its work undone. The end of a session says nothing of the
kind, and undoes it all the same: `async with session:` is how most people commit nothing and close.

A database may roll back by itself (MariaDB after a deadlock) or refuse all but a rollback
(PostgreSQL after any error), and a handler that swallows the error does not know. So once there was
an error on the connection, the row is looked for before each commit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias
from weakref import WeakSet

from sqlalchemy import Connection, Engine, ExceptionContext, Insert, Table, event
from sqlalchemy.exc import DBAPIError, UnboundExecutionError
from sqlalchemy.orm import Session, SessionTransaction, UOWTransaction

from events.errors import InboxError, InboxTableError
from events.integration.implementation.sqlalchemy._routing import (
    engines_of_flush,
    writing_connection,
)

__all__ = ["Claim", "Claimable", "DuplicateError", "connection_of"]

Row: TypeAlias = Mapping[str, Any]

_INFO_KEY = "events.inbox"
_watched: WeakSet[Engine] = WeakSet()


class Claimable(Protocol):
    """A table in which a row is claimed, in the transaction of whoever calls it."""

    @property
    def table(self) -> Table:
        """Return the table."""
        ...

    @property
    def clause(self) -> Insert:
        """Return an insert into it, which tells where the session writes it."""
        ...

    def insert(self, connection: Connection, row: Row) -> bool:
        """Claim the row; say whether nobody had."""
        ...

    def holds(self, connection: Connection, row: Row) -> bool:
        """Tell whether the row is claimed, as this transaction sees it."""
        ...


class DuplicateError(Exception):
    """Raised through a handler that has rolled back, when somebody else has its event by now."""


class Claim:
    """One row in one session, from before the handler is called until it has ended."""

    def __init__(self, session: Session, inbox: Claimable, row: Row) -> None:
        """Insert the row, or find it there: see `is_duplicate`."""
        self.session = session
        self._duplicate = False
        self._inbox = inbox
        self._row = row
        self._kept = False
        self._ended = False
        self._troubled = False
        self._within: SessionTransaction | None = None
        connection = connection_of(session, inbox)
        self._engine = connection.engine
        self._insert(connection)
        if not self._duplicate:
            _watch(self._engine)
            for name, listener in self._listeners():
                event.listen(session, name, listener)

    def is_duplicate(self) -> bool:
        """Tell whether somebody else has handled the event, before or meanwhile."""
        return self._duplicate

    def release(self) -> None:
        """Let go of the session, which may have other uses after this."""
        for name, listener in self._listeners():
            if event.contains(self.session, name, listener):
                event.remove(self.session, name, listener)
        self._within = None

    def _listeners(self) -> tuple[tuple[str, Callable[..., None]], ...]:
        return (
            ("after_begin", self._after_begin),
            ("after_flush", self._after_flush),
            ("before_commit", self._before_commit),
            ("after_commit", self._after_commit),
            ("after_transaction_end", self._after_transaction_end),
            ("after_soft_rollback", self._after_rollback),
        )

    def commit(self, session: Session) -> None:
        """Commit what the handler did, and the row with it.

        Raises `DuplicateError`, and `InboxError` if the handler has ended the session.
        """
        if self._duplicate:
            raise DuplicateError
        self._refuse_if_ended()
        if not self._kept and self._within is not session.get_transaction():
            # It rolled back, and did nothing in this database after that.
            connection = connection_of(session, self._inbox)  # and with it the row, see below
            if self._within is not session.get_transaction():
                self._again(connection)
        session.commit()

    def _insert(self, connection: Connection) -> None:
        self._within = self.session.get_transaction()
        connection.info[_INFO_KEY] = self  # of the pooled connection, until its next claim
        self._duplicate = not self._inbox.insert(connection, self._row)

    def _again(self, connection: Connection) -> None:
        self._troubled = False
        self._insert(connection)
        if self._duplicate:
            raise DuplicateError

    def _after_begin(self, session: Session, _: SessionTransaction, connection: Connection) -> None:
        current = session.get_transaction()
        if self._kept or current is self._within or connection.engine is not self._engine:
            return
        self._refuse_if_ended()
        self._again(connection)

    def _after_flush(self, session: Session, _: UOWTransaction) -> None:
        engines = engines_of_flush(session)
        if engines and self._engine not in engines:
            raise InboxTableError(self._inbox.table.fullname, f"{self._engine.url!r} {_APART}")

    def _before_commit(self, session: Session) -> None:
        if not self._troubled or self._kept or self._within is not session.get_transaction():
            return
        try:
            there = self._inbox.holds(connection_of(session, self._inbox), self._row)
        except DBAPIError as error:
            raise InboxError(_SWALLOWED) from error
        if not there:
            raise InboxError(_SWALLOWED)
        self._troubled = False

    def _after_commit(self, session: Session) -> None:
        if self._within is session.get_transaction() and not session.in_nested_transaction():
            self._kept = True

    def _after_transaction_end(self, _: Session, transaction: SessionTransaction) -> None:
        if transaction is self._within and not self._kept:
            self._ended = True  # unless that was a rollback, of which SQLAlchemy tells next

    def _after_rollback(self, _: Session, transaction: SessionTransaction) -> None:
        if transaction is self._within:
            self._ended = False

    def _refuse_if_ended(self) -> None:
        if self._ended:
            raise InboxError(_ENDED)

    def saw_error(self) -> None:
        """Take note that a statement failed, and with it perhaps the transaction."""
        if self._within is not None:
            self._troubled = True


_UNBOUND = (
    "the session has no engine for it: give its sessionmaker one engine for all, or "
    "binds={inbox: engine} with what inbox_table(metadata) returned, and that to "
    "SQLAlchemyInbox(sessions, table=inbox) as well"
)
_APART = (
    "is not where the handler's objects are written, so they and the inbox's row would be "
    "committed apart from one another: have the session's get_bind or binds= send both to one "
    "engine"
)
_AUTOCOMMIT = (
    "commits each statement by itself (AUTOCOMMIT), so the inbox's row would stay when the handler "
    "raises, and the event count as handled: give the inbox sessions of an engine with "
    "transactions, which is any without isolation_level='AUTOCOMMIT'"
)
_ENDED = (
    "the handler has closed or reset the inbox's session, as `async with session:` does at its "
    "end, and that has undone what it wrote, and the inbox's row: use the session without "
    "`async with`, and leave its end to the inbox; to undo on purpose, `await session.rollback()`"
)
_SWALLOWED = (
    "a statement of the handler failed, and the database has undone the transaction with it, the "
    "inbox's row too: let the error out of the handler, or put the statement into a savepoint "
    "(`async with session.begin_nested():`)"
)


def connection_of(session: Session, inbox: Claimable) -> Connection:
    """Return the connection on which the session writes the inbox's table.

    Raises `InboxError` if it commits each statement by itself.
    """
    if not session.in_transaction():
        session.begin()  # whether or not it begins by itself
    try:
        connection = writing_connection(session, inbox.clause)
    except UnboundExecutionError as error:
        raise InboxTableError(inbox.table.fullname, _UNBOUND) from error
    # Of the engine, as in create_async_engine(isolation_level=), or of the connection alone.
    level = connection.get_execution_options().get(
        "isolation_level", getattr(connection.dialect, "_on_connect_isolation_level", None)
    )
    if level == "AUTOCOMMIT":
        raise InboxError(f"{connection.engine.url!r} {_AUTOCOMMIT}")
    return connection


def _watch(engine: Engine) -> None:
    if engine not in _watched:
        _watched.add(engine)
        event.listen(engine, "handle_error", _on_error)


def _on_error(context: ExceptionContext) -> None:
    connection = context.connection
    if connection is not None and not connection.closed and not connection.invalidated:
        claim = connection.info.get(_INFO_KEY)
        if isinstance(claim, Claim):
            claim.saw_error()
