"""The session of a handler: where it comes from, and how the handler gets it."""

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

    Raises `InvalidTopologyError` outside of a handler, on a bus without an inbox or `sessions`, and
    `InboxError` in a task that outlives its handler.
    """
    handling = _current.get()
    if handling is None:
        raise InvalidTopologyError(
            "no event is being handled with a session here",
            "create the bus with middlewares=[SQLAlchemyInbox(sessions)], or a SQLAlchemyBus "
            "with sessions=sessions",
        )
    if handling.over:
        raise InboxError(
            "the handler that started this task has ended, and so has its transaction: "
            "await the task in the handler, or use another session in it"
        )
    handling.asked = True
    return handling.session


@runtime_checkable
class _Placed(Protocol):
    def check(self, outer: Sequence[Middleware]) -> None: ...


class SessionSource:
    """Sessions of our own, from a maker, or the user's, from a function."""

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
        """Yield the session of one attempt; a session that was made here is closed at the exit."""
        if self.maker is not None:
            session = self.maker()
            if not _closes_as_usual(type(session)):
                async with session:
                    yield session
                return
            try:
                yield session
            finally:
                if session.sync_session.get_transaction() is None:
                    session.sync_session.close()  # it has no connection to give back: no task
                else:
                    await session.__aexit__(None, None, None)
            return
        borrowed = self._borrow()
        given: object = await borrowed if isawaitable(borrowed) else borrowed
        if not isinstance(given, AsyncSession):
            raise TypeError(
                f"SQLAlchemyInbox: {self._borrow!r} must return an AsyncSession to await, "
                f"not {type(given).__name__}"
            )
        yield given


def _closes_as_usual(kind: type[AsyncSession]) -> bool:
    names = ("__aenter__", "__aexit__", "close")
    return all(getattr(kind, name) is getattr(AsyncSession, name) for name in names)


async def roll_back(session: AsyncSession, error: BaseException) -> None:
    """Roll back an attempt; its own error is still the one that is raised."""
    if isinstance(error, InvalidRequestError) and "already begun" in str(error):
        error.add_note(
            "the inbox has begun this session's transaction, and commits it after the handler: "
            "omit `session.begin()`"
        )
    try:
        await session.rollback()
    except (SQLAlchemyError, OSError) as another:
        error.add_note(f"the rollback failed too: {another}")


def _refuse(given: object) -> None:
    """Raise TypeError for a wrong argument, with the cure."""
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
        cure = f"each event needs its own session: {cure}"
    elif callable(given) and not isinstance(given, async_scoped_session):
        return
    raise TypeError(f"SQLAlchemyInbox cannot use {given!r}: {cure}")
