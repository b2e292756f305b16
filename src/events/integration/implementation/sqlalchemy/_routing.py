"""The connection that a session writes on, also where it routes.

Sessions spread their statements over engines in `get_bind`: reads to a replica, say, and to the
writer what is flushed and what is an `Insert`, `Update` or `Delete`. The recipe of SQLAlchemy's
documentation forgets inserts, so rows of ours are written as if they were flushed: where the
session's objects go, they go. On another connection they would be in another transaction, which may
be committed without the objects, or not with them.
"""

from __future__ import annotations

from sqlalchemy import Connection, Engine, Insert, inspect
from sqlalchemy.orm import Session


def writing_connection(session: Session, statement: Insert) -> Connection:
    """Return the connection on which the session would flush what this statement inserts."""
    flushing = session._flushing  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - documented
    session._flushing = True  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    try:
        return session.connection(bind_arguments={"clause": statement})
    finally:
        session._flushing = flushing  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]


def engines_of_flush(session: Session) -> set[Engine]:
    """Return where the flush that is going on writes to; for a listener of `after_flush`."""
    if session.connection_callable is not None:  # a sharded session asks object by object
        return set()
    mappers = {inspect(each).mapper for each in (*session.new, *session.dirty, *session.deleted)}
    return {session.get_bind(mapper).engine for mapper in mappers}
