"""Domain events of the aggregates in a SQLAlchemy session; needs the extra `sqlalchemy`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self, cast

from events.domain.aggregate import AggregateRoot, having_events, unpopped
from events.domain.dispatcher import DomainEventDispatcher
from events.errors import MissingExtraError

try:
    from sqlalchemy import event as sqlalchemy_event
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
    from sqlalchemy.orm import SessionTransaction
    from sqlalchemy.util import await_only
except ImportError as error:
    raise MissingExtraError(__name__, "sqlalchemy") from error

__all__ = ["SQLAlchemyDomainEvents"]


class SQLAlchemyDomainEvents:
    """Hand the aggregates of a session to a dispatcher, so that nobody calls `from_entity`.

        SQLAlchemyDomainEvents(session, dispatcher)
        order = await session.get_one(Order, 7)
        order.complete()
        await session.commit()

    The commit hands over every aggregate that the session has or has flushed, and runs `process`
    before its own flush, in the transaction: if a handler raises, `commit` raises its error and
    nothing is committed. What handlers change, and the events of what they add, are part of the
    same commit. The end of a savepoint processes nothing. A rollback drops the events that were
    published since the transaction, or the savepoint, began.

    It stays attached to the session for as long as that lives, over any number of commits;
    `detach`, or the end of `async with`, ends it.

    Raises:
        TypeError: the session is no `AsyncSession`: handlers are awaited within its commit.
    """

    def __init__(
        self, session: AsyncSession | async_scoped_session[Any], dispatcher: DomainEventDispatcher
    ) -> None:
        given: object = session() if isinstance(session, async_scoped_session) else session
        if not isinstance(given, AsyncSession):
            raise TypeError(
                f"SQLAlchemyDomainEvents takes an AsyncSession, not {given!r}: handlers are "
                f"coroutines, which a session without asyncio cannot await in its commit"
            )
        self._session = given.sync_session
        self._dispatcher = dispatcher
        self._processing = False
        # What is flushed is clean, and a session keeps nothing alive that is clean. It may still
        # publish, as many do that need their key for it.
        self._flushed: dict[int, AggregateRoot] = {}
        # How many events each aggregate had when a savepoint began.
        self._before: dict[SessionTransaction, dict[int, int]] = {}
        self._listeners: dict[str, Callable[..., None]] = {
            "before_flush": self._before_flush,
            "before_commit": self._before_commit,
            "after_commit": self._after_commit,
            "after_transaction_create": self._after_begin,
            "after_soft_rollback": self._after_rollback,
        }
        for name, listener in self._listeners.items():
            sqlalchemy_event.listen(self._session, name, listener)

    def detach(self) -> None:
        """Take no more aggregates of the session. Calling it again changes nothing."""
        for name, listener in self._listeners.items():
            sqlalchemy_event.remove(self._session, name, listener)
        self._listeners = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.detach()

    def _aggregates(self) -> list[AggregateRoot]:
        """Return those with events. One that has only published is clean, so all are looked at."""
        found = self._flushed | self._in_session()
        return having_events(found.values())

    def _in_session(self) -> dict[int, AggregateRoot]:
        session = self._session
        return {
            id(each): each
            for group in (session.new, session.identity_map.values(), session.deleted)
            for each in cast("Iterable[object]", group)
            if isinstance(each, AggregateRoot)
        }

    def _before_flush(self, *_: object) -> None:
        self._flushed |= self._in_session()

    def _before_commit(self, *_: object) -> None:
        if self._processing or self._session.in_nested_transaction():
            return
        self._processing = True
        try:
            await_only(self._process())
        finally:
            self._processing = False

    async def _process(self) -> None:
        await self._dispatcher.process()  # what was stored by hand
        while aggregates := self._aggregates():
            for aggregate in aggregates:
                self._dispatcher.from_entity(aggregate)
            await self._dispatcher.process()  # it may add aggregates

    def _after_commit(self, *_: object) -> None:
        self._flushed.clear()
        self._before.clear()

    def _after_begin(self, _: object, transaction: SessionTransaction) -> None:
        if transaction.nested:
            self._before[transaction] = {
                id(each): len(unpopped(each) or ()) for each in self._aggregates()
            }

    def _after_rollback(self, _: object, transaction: SessionTransaction) -> None:
        kept = self._before.pop(transaction, {})
        for aggregate in self._aggregates():
            for event in aggregate.pop_events()[: kept.get(id(aggregate), 0)]:
                aggregate.publish_event(event)
        if not transaction.nested:
            self._after_commit()
