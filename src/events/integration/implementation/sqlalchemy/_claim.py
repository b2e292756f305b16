"""The row of one delivery in the session that handles it: first, and in the same commit.

    claim --row was there--> duplicate
      | inserted
      v
    claimed --commit, the handler's own or the inbox's--> kept
      ^   | rolled back by the handler
      |   v
      '-- lost: the next transaction of the session begins with the row again
              '--another process has claimed it meanwhile--> duplicate

    claimed --the session was closed, reset or invalidated--> ended: an error, and a retry

A rollback says that the handler wants its work undone. The end of a session says nothing of the
kind, and undoes it all the same: `async with session:` is how most people commit nothing and close.

A database may roll back by itself (MariaDB after a deadlock) or refuse all but a rollback
(PostgreSQL after any error), and a handler that swallows the error does not know. So once there was
an error on the connection, the row is looked for before each commit.

What SQLAlchemy tells of sessions it tells of all of them, from the first inbox on: to listen to one
session costs a fifth of handling an event in it, to look whether a session has a claim does not.
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

Row: TypeAlias = Mapping[str, Any]

_INFO_KEY = "events.inbox"
_CLAIMS = "_events_claims"  # the attribute of a session: what is in its `info` may be shared
_watched: WeakSet[Engine] = WeakSet()


class Claimable(Protocol):
    """A table in which a row is claimed, in the caller's transaction."""

    @property
    def table(self) -> Table:
        """Return the table."""
        ...

    @property
    def clause(self) -> Insert:
        """Return an insert into it, which tells where the session writes it."""
        ...

    def insert(self, connection: Connection, row: Row) -> bool:
        """Claim the row; return whether it was free."""
        ...

    def holds(self, connection: Connection, row: Row) -> bool:
        """Return whether the row is claimed, as this transaction sees it."""
        ...


class DuplicateError(Exception):
    """Raised through a handler that has rolled back, when another process has its event by now."""


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
        self._failed = False
        self._within: SessionTransaction | None = None
        connection = connection_of(session, inbox)
        self._engine = connection.engine
        self._insert(connection)
        if not self._duplicate:
            _watch(self._engine)
            vars(session)[_CLAIMS] = (*_claims_of(session), self)

    def is_duplicate(self) -> bool:
        """Return whether another delivery has handled the event, before or meanwhile."""
        return self._duplicate

    def release(self) -> None:
        """Release the session, which may be used again."""
        left = tuple(claim for claim in _claims_of(self.session) if claim is not self)
        if left:
            vars(self.session)[_CLAIMS] = left
        else:
            vars(self.session).pop(_CLAIMS, None)
        self._within = None

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
        self._failed = False
        self._insert(connection)
        if self._duplicate:
            raise DuplicateError

    def after_begin(self, session: Session, _: SessionTransaction, connection: Connection) -> None:
        current = session.get_transaction()
        if self._kept or current is self._within or connection.engine is not self._engine:
            return
        self._refuse_if_ended()
        self._again(connection)

    def after_flush(self, session: Session, _: UOWTransaction) -> None:
        engines = engines_of_flush(session)
        if engines and self._engine not in engines:
            raise InboxTableError(self._inbox.table.fullname, f"{self._engine.url!r} {_APART}")

    def before_commit(self, session: Session) -> None:
        if not self._failed or self._kept or self._within is not session.get_transaction():
            return
        try:
            there = self._inbox.holds(connection_of(session, self._inbox), self._row)
        except DBAPIError as error:
            raise InboxError(_SWALLOWED) from error
        if not there:
            raise InboxError(_SWALLOWED)
        self._failed = False

    def after_commit(self, session: Session) -> None:
        if self._within is session.get_transaction() and not session.in_nested_transaction():
            self._kept = True

    def after_transaction_end(self, _: Session, transaction: SessionTransaction) -> None:
        if transaction is self._within and not self._kept:
            self._ended = True  # unless that was a rollback, of which SQLAlchemy tells next

    def after_soft_rollback(self, _: Session, transaction: SessionTransaction) -> None:
        if transaction is self._within:
            self._ended = False

    def _refuse_if_ended(self) -> None:
        if self._ended:
            raise InboxError(_ENDED)

    def saw_error(self) -> None:
        """Take note that a statement failed, and with it perhaps the transaction."""
        if self._within is not None:
            self._failed = True


def _claims_of(session: Session) -> tuple[Claim, ...]:
    claims: tuple[Claim, ...] = vars(session).get(_CLAIMS, ())
    return claims


def watch_sessions() -> None:
    """Have the claims of sessions learn what happens to these. To call it again does nothing."""
    for name, listener in _LISTENERS.items():
        event.listen(Session, name, listener)


def _passing_on(name: str) -> Callable[..., None]:
    def listener(session: Session, *about: Any) -> None:
        for claim in _claims_of(session):
            getattr(claim, name)(session, *about)

    return listener


_LISTENERS = {
    name: _passing_on(name)
    for name in (
        "after_begin",
        "after_flush",
        "before_commit",
        "after_commit",
        "after_transaction_end",
        "after_soft_rollback",
    )
}

_UNBOUND = (
    "the session has no engine for it: create its sessionmaker with one engine for all tables, or "
    "with binds={inbox: engine}, where inbox is the result of inbox_table(metadata), and pass it "
    "to SQLAlchemyInbox(sessions, table=inbox) too"
)
_APART = (
    "is not the engine of the handler's objects, so they and the inbox's row would be committed "
    "separately: use one engine for both in the session's get_bind or binds="
)
_AUTOCOMMIT = (
    "commits each statement by itself (AUTOCOMMIT), so if the handler raised, the inbox's row "
    "would stay and the event would count as handled: use sessions of an engine without "
    "isolation_level='AUTOCOMMIT'"
)
_ENDED = (
    "the handler has closed or reset the inbox's session, as `async with session:` does at its "
    "end, and that has rolled back its changes and the inbox's row: use the session without "
    "`async with`: the inbox closes it; to undo on purpose, use `await session.rollback()`"
)
_SWALLOWED = (
    "a statement of the handler failed, and the database has rolled back the transaction with the "
    "inbox's row: do not catch the error in the handler, or run the statement in a savepoint "
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
