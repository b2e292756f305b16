"""Where the session of a handler comes from, and how the handler gets it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from inspect import isawaitable
from typing import Protocol, TypeAlias, cast, runtime_checkable

from sqlalchemy import Engine
from sqlalchemy.exc import InvalidRequestError, SQLAlchemyError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
)
from sqlalchemy.orm import Session, sessionmaker

from events.errors import InboxError, InvalidTopologyError
from events.integration.pipeline import Middleware

__all__ = ["Handling", "SessionSource", "Sessions", "current_session", "roll_back"]

Sessions: TypeAlias = async_sessionmaker[AsyncSession] | Callable[[], Awaitable[AsyncSession]]


class Handling:
    """The session of one handling, whether anybody asked for it, and whether it is over."""

    __slots__ = ("asked", "over", "session")

    def __init__(self, session: AsyncSession) -> None:
        self.session = session
        self.asked = False
        self.over = False

    @contextmanager
    def current(self) -> Generator[None]:
        """Make it the one that `current_session` tells of."""
        token = _current.set(self)
        try:
            yield
        finally:
            self.over = True
            _current.reset(token)


_current: ContextVar[Handling | None] = ContextVar("events.inbox", default=None)


def current_session() -> AsyncSession:
    """Return the session of the event that is being handled: the inbox commits it.

    Raises `InvalidTopologyError` outside of a handler, and on a bus without an inbox, and
    `InboxError` in a task that outlives its handler.
    """
    handling = _current.get()
    if handling is None:
        raise InvalidTopologyError(
            "no event is being handled through an inbox here",
            "give the bus middlewares=[SQLAlchemyInbox(sessions)]",
        )
    if handling.over:
        raise InboxError(
            "the handler that this task was started by has ended, and its transaction with it: "
            "await the task in the handler, or give it a session of its own"
        )
    handling.asked = True
    return handling.session


@runtime_checkable
class _Placed(Protocol):
    def check(self, outer: Sequence[Middleware]) -> None: ...


class SessionSource:
    """Sessions of our own, from a maker, or somebody else's, from a function."""

    def __init__(self, given: Sessions) -> None:
        _refuse(given)
        what: object = given
        own = isinstance(what, async_sessionmaker)
        self.maker = cast("async_sessionmaker[AsyncSession]", given) if own else None
        self._borrow = cast("Callable[[], Awaitable[AsyncSession]]", given)

    def check(self, outer: Sequence[Middleware]) -> None:
        """Raise `InvalidTopologyError` if behind these middlewares there is no session to get."""
        given: object = self._borrow
        if isinstance(given, _Placed):
            given.check(outer)

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[AsyncSession]:
        """Give the session of one attempt, closed at the exit if it is our own."""
        if self.maker is not None:
            async with self.maker() as session:
                yield session
            return
        borrowed = self._borrow()
        given: object = await borrowed if isawaitable(borrowed) else borrowed
        if not isinstance(given, AsyncSession):
            raise TypeError(
                f"SQLAlchemyInbox: {self._borrow!r} must return an AsyncSession to await, "
                f"not {type(given).__name__}"
            )
        yield given


async def roll_back(session: AsyncSession, error: BaseException) -> None:
    """Undo what an attempt did; the error that ended it stays the one that is raised."""
    if isinstance(error, InvalidRequestError) and "already begun" in str(error):
        error.add_note(
            "the inbox has begun this session's transaction, and commits it after the handler: "
            "leave `session.begin()` out"
        )
    try:
        await session.rollback()
    except (SQLAlchemyError, OSError) as another:
        error.add_note(f"rolling back failed as well: {another}")


def _refuse(given: object) -> None:
    """Raise TypeError for what people pass instead, saying what to pass."""
    cure = "pass the async_sessionmaker that makes your sessions"
    if isinstance(given, async_sessionmaker):
        maker = cast("async_sessionmaker[AsyncSession]", given)
        if not isinstance(maker.kw.get("bind"), Engine):
            return
        cure = "it is bound to a sync engine; bind it to create_async_engine(url)"
    elif isinstance(given, AsyncEngine):
        cure = "pass async_sessionmaker(engine)"
    elif isinstance(given, (Session, sessionmaker, Engine)):
        cure = "it needs an async engine: pass async_sessionmaker(create_async_engine(url))"
    elif isinstance(given, type):
        cure = "pass from_scope(AsyncSession), or the async_sessionmaker that makes your sessions"
    elif isinstance(given, AsyncSession):
        cure = f"each event needs a session of its own: {cure}"
    elif callable(given) and not isinstance(given, async_scoped_session):
        return
    raise TypeError(f"SQLAlchemyInbox cannot use {given!r}: {cure}")
