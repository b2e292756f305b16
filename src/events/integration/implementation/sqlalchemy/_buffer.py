"""Rows that wait in a session for its commit.

    put --> with the innermost open savepoint, or the transaction
              | savepoint released --> with what encloses it
              | rolled back --> dropped
              | closed, or forgotten, without either --> dropped, with a warning that names them
              v
    before the commit: flush, then one INSERT with all rows --> after it: nudge the relays

Written last, after the flush has taken the locks of the rows that it changes, the ids of one
aggregate's events follow its commits. SQLAlchemy reports all this by events of the session:
`before_commit`, `after_commit`, `after_rollback`, for savepoints too, and `after_transaction_end`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from sqlalchemy import Engine, MetaData, Table, event
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Session, SessionTransaction, UOWTransaction

from events.errors import OutboxError, OutboxTableError
from events.integration.implementation.sqlalchemy._routing import (
    engines_of_flush,
    writing_connection,
)
from events.integration.implementation.sqlalchemy._wakeup import nudge
from events.integration.implementation.sqlalchemy.tables import Row, insert_into, insert_rows

logger = logging.getLogger("events.integration")

_NAMED = 10  # events in one line of the log
_ATTRIBUTE = "_events_outbox"  # of a session
_WRITTEN = Table("written", MetaData())  # stands for the tables of rows that need no writing


class SessionBuffer:
    """The rows of one session, and the listeners that write or drop them."""

    def __init__(self, session: Session) -> None:
        self._rows: dict[SessionTransaction, dict[Table, list[Row]]] = {}
        self._released: set[SessionTransaction] = set()
        self._rolled_back: set[SessionTransaction] = set()
        self._closed: list[dict[Table, list[Row]]] = []  # of savepoints, with all that is closed
        self._committing: list[SessionTransaction | None] = []  # the innermost at each beginning
        self._written_to: set[tuple[Engine, Table]] = set()
        self._flushed_to: set[Engine] = set()
        event.listen(session, "after_flush", self._after_flush)
        event.listen(session, "before_commit", self._before_commit)
        event.listen(session, "after_commit", self._after_commit)
        event.listen(session, "after_rollback", self._after_rollback)
        event.listen(session, "after_transaction_end", self._after_transaction_end)

    @classmethod
    def of(cls, session: Session) -> SessionBuffer:
        """Return the session's buffer, made on first use; a session that is closed keeps it.

        It is not in `session.info`, which several sessions may have been given.
        """
        buffer = vars(session).get(_ATTRIBUTE)
        if buffer is None:
            buffer = vars(session)[_ATTRIBUTE] = cls(session)
        return cast("SessionBuffer", buffer)

    def add(self, session: Session, table: Table, row: Row) -> None:
        """Keep a row until the commit. Begins a transaction if there is none, as `add` does."""
        current = _current(session)
        if current is None:
            if not session.autobegin:
                raise OutboxError(
                    f"{session!r} has no transaction to put events into, and autobegin=False: "
                    f"use `async with session.begin():`"
                )
            current = session.begin()
        _refuse_if_over(current)
        self._rows.setdefault(current, {}).setdefault(table, []).append(row)

    def note(self, session: Session, row: Row) -> None:
        """Keep a row that is written already, to name it if there is no commit."""
        self.add(session, _WRITTEN, row)

    def _after_flush(self, session: Session, _: UOWTransaction) -> None:
        self._flushed_to |= engines_of_flush(session)

    def _before_commit(self, session: Session) -> None:
        self._committing.append(_current(session))
        # With a savepoint open it is either that which is released, or all: then what is in the
        # savepoint comes to the transaction later, and `_after_transaction_end` writes it.
        if not session.in_nested_transaction():
            self._write(session)

    def _after_commit(self, session: Session) -> None:
        if self._committing:
            self._committing.pop()
        current = _current(session)
        if session.in_nested_transaction() and current is not None:
            self._released.add(current)
            return
        for engine, table in self._written_to:
            nudge(engine, table)
        if current is not None and self._rows.get(current, {}).keys() - {_WRITTEN}:
            raise OutboxError(_TOO_LATE)

    def _after_rollback(self, session: Session) -> None:
        current = _current(session)
        if current is not None:
            self._rolled_back.add(current)

    def _after_transaction_end(self, session: Session, transaction: SessionTransaction) -> None:
        rows = self._rows.pop(transaction, {})
        parent = transaction.parent
        rolled_back = transaction in self._rolled_back
        if parent is None:
            # A commit that was tried and failed has raised already.
            if not self._committing and not rolled_back:
                _warn_of([*self._closed, rows], "was closed without a commit or a rollback")
            self._committing.clear()
            self._rolled_back.clear()
            self._closed.clear()
            self._written_to.clear()
            self._flushed_to.clear()
        elif transaction in self._released:
            self._released.discard(transaction)
            outer = self._rows.setdefault(parent, {})
            for table, inner in rows.items():
                outer.setdefault(table, []).extend(inner)
            if self._committing and not session.in_nested_transaction():
                self._write(session)
        else:  # rolled back, perhaps by its own commit, or closed with the session
            self._committing = [other for other in self._committing if other is not transaction]
            if not rolled_back:
                self._closed.append(rows)

    def __del__(self) -> None:
        _warn_of([*self._closed, *self._rows.values()], "was collected without a commit")

    def _write(self, session: Session) -> None:
        current = _current(session)
        if current is None or current not in self._rows:
            return
        session.flush()
        tables = self._rows[current]
        tables.pop(_WRITTEN, None)
        while tables:
            table, rows = next(iter(tables.items()))
            try:
                connection = writing_connection(session, insert_into(table))
            except UnboundExecutionError as error:
                raise OutboxTableError(table.fullname, _UNBOUND) from error
            if self._flushed_to and connection.engine not in self._flushed_to:
                raise OutboxTableError(table.fullname, f"{connection.engine.url!r} {_APART}")
            insert_rows(connection, table, rows)
            self._written_to.add((connection.engine, table))
            # Only now: a commit that failed here, and is tried again, must write them.
            del tables[table]


_UNBOUND = (
    "the session has no engine for it: create its sessionmaker with one engine for all tables, or "
    "with binds={outbox: engine}, where outbox is the result of outbox_table(metadata), and pass "
    "it to SQLAlchemyOutbox(session, table=outbox) too"
)
_APART = (
    "is not the engine of the session's objects, so events and objects would be committed "
    "separately: use one engine for both in the session's get_bind or binds="
)
_TOO_LATE = (
    "events were put too late: the transaction has been committed without them; put them before "
    "the commit begins, not in a listener of `before_commit` or `after_commit`"
)


def _refuse_if_over(transaction: SessionTransaction) -> None:
    if not transaction.is_active:
        raise OutboxError(_TOO_LATE)


def _current(session: Session) -> SessionTransaction | None:
    return session.get_nested_transaction() or session.get_transaction()


def _warn_of(dropped: Iterable[Mapping[Table, Sequence[Row]]], why: str) -> None:
    rows = [row for tables in dropped for of_one in tables.values() for row in of_one]
    if not rows:
        return
    names = [f"{row['type']} {row['event_id']}" for row in rows[:_NAMED]]
    if len(rows) > _NAMED:
        names.append(f"and {len(rows) - _NAMED} more")
    logger.warning(
        "events that were put will not be sent, because their session %s: %s. Commit after `put`, "
        "or call `rollback()` to drop them",
        why,
        ", ".join(names),
    )
