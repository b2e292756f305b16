"""Domain events of the aggregates in a SQLAlchemy session; needs the extra `sqlalchemy`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Protocol, Self, cast

from events.domain.aggregate import (
    AggregateRootMixin,
    having_events,
    pops_its_own_alone,
    unpopped,
)
from events.domain.dispatcher import DomainEventDispatcher
from events.domain.event import DomainEvent
from events.errors import MissingExtraError

try:
    from sqlalchemy import event as sqlalchemy_event
    from sqlalchemy.exc import PendingRollbackError
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, SessionTransaction
    from sqlalchemy.util import await_only
except ImportError as error:
    raise MissingExtraError(__name__, "sqlalchemy") from error

__all__ = ["SQLAlchemyDomainEvents"]

# Attributes of a session: what is attached to it, and the transaction whose commit failed in a
# handler.
_ATTRIBUTE = "_events_domain"
_FAILED = "_events_domain_failed"


class SQLAlchemyDomainEvents:
    """Pass the aggregates of a session to a dispatcher at each commit, instead of `from_entity`.

        SQLAlchemyDomainEvents(session, dispatcher)
        order = await session.get_one(Order, 7)
        order.complete()
        await session.commit()

    The commit passes on every object with a `pop_events` that the session has or has flushed. Then
    it runs `process` before its own flush, in the transaction. If a handler raises, `commit` raises
    that error and commits nothing; until `rollback`, the session refuses another commit, as after
    a failed flush. The same commit includes the changes of handlers, the events that they put into
    an outbox, and the events of objects that they add. Releasing a savepoint processes nothing. A
    rollback drops the events that were published since the transaction, or the savepoint, began.

    It stays attached to the session over any number of commits. `detach`, the end of `async with`,
    or another `SQLAlchemyDomainEvents` for the same session detaches it.

    Raises:
        TypeError: the session is not an `AsyncSession`; its commit must await handlers.
    """

    def __init__(
        self, session: AsyncSession | async_scoped_session[Any], dispatcher: DomainEventDispatcher
    ) -> None:
        given: object = session() if isinstance(session, async_scoped_session) else session
        if not isinstance(given, AsyncSession):
            raise TypeError(
                f"SQLAlchemyDomainEvents takes an AsyncSession, not {given!r}: a session without "
                f"asyncio cannot await handlers in its commit"
            )
        self._session = given.sync_session
        self._dispatcher = dispatcher
        self._aggregates = _Aggregates(self._session)
        former: SQLAlchemyDomainEvents | None = vars(self._session).get(_ATTRIBUTE)
        if former is not None:
            former.detach()
        vars(self._session)[_ATTRIBUTE] = self
        if not sqlalchemy_event.contains(Session, "before_commit", _before_commit):
            sqlalchemy_event.listen(Session, "before_commit", _before_commit)
        # `_before_commit` says why a listener of the session must be there as well.
        sqlalchemy_event.listen(self._session, "before_commit", _nothing)

    def detach(self) -> None:
        """Stop passing on the aggregates of the session. Repeating it has no effect."""
        if vars(self._session).get(_ATTRIBUTE) is self:
            del vars(self._session)[_ATTRIBUTE]
            sqlalchemy_event.remove(self._session, "before_commit", _nothing)
            self._aggregates.detach()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.detach()

    def process(self) -> None:
        """Run the dispatcher within the greenlet of a commit."""
        # The dispatcher collects after each event, so its limit covers events of the session too.
        self._dispatcher.from_entity(self._aggregates)
        try:
            await_only(self._dispatcher.process())
        except BaseException:
            vars(self._session)[_FAILED] = self._session.get_transaction()
            raise


def _before_commit(session: Session) -> None:
    """Process the events of a session that is about to commit.

    The listener is on the class, because listeners of the class are called before those of the
    session. A handler that is the first to use an outbox adds a listener to the session. That is
    an error while the session's listeners are called, and too late if it had none before.
    """
    failed: SessionTransaction | None = vars(session).get(_FAILED)
    if failed is not None and failed is session.get_transaction():
        raise PendingRollbackError(
            "a handler of a domain event failed in an earlier commit of this transaction, and the "
            "events were dropped: call rollback() before you commit anything else"
        )
    events: SQLAlchemyDomainEvents | None = vars(session).get(_ATTRIBUTE)
    if events is not None and not session.in_nested_transaction():
        events.process()


def _nothing(_: Session) -> None: ...


class _HasEvents(Protocol):
    def pop_events(self) -> Iterable[DomainEvent]: ...


class _Aggregates:
    """The objects of a session that may have events, as one entity for the dispatcher.

    A session has only weak references to objects once they are flushed. They may still publish, as
    many do that need their key for it, so they are kept here until the transaction ends.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._flushed: dict[int, _HasEvents] = {}
        # How many events each aggregate had when a savepoint began.
        self._before: dict[SessionTransaction, list[tuple[AggregateRootMixin, int]]] = {}
        self._listeners: dict[str, Callable[..., None]] = {
            "before_flush": self._before_flush,
            "after_transaction_create": self._after_begin,
            "after_rollback": self._after_rollback,
            "after_transaction_end": self._after_end,
        }
        for name, listener in self._listeners.items():
            sqlalchemy_event.listen(session, name, listener)

    def detach(self) -> None:
        for name, listener in self._listeners.items():
            sqlalchemy_event.remove(self._session, name, listener)
        self._listeners = {}
        self._flushed = {}

    def pop_events(self) -> list[DomainEvent]:
        if not self._listeners:
            return []
        found = self._flushed | _by_id(self._in_session())
        return [
            event
            for each in found.values()
            if not pops_its_own_alone(each) or having_events((each,))
            for event in each.pop_events()
        ]

    def _in_session(self) -> Iterator[object]:
        """Yield all objects, because an object that only published an event is not dirty."""
        yield from self._changed()
        yield from self._session.identity_map.values()

    def _changed(self) -> Iterator[object]:
        yield from cast("Iterable[object]", self._session.new)
        yield from cast("Iterable[object]", self._session.dirty)
        yield from cast("Iterable[object]", self._session.deleted)

    def _with_events(self) -> list[AggregateRootMixin]:
        found = self._flushed | _by_id(self._in_session())
        return having_events(each for each in found.values() if pops_its_own_alone(each))

    def _before_flush(self, *_: object) -> None:
        self._flushed |= _by_id(self._changed())

    def _after_begin(self, _: object, transaction: SessionTransaction) -> None:
        if transaction.nested:
            self._before[transaction] = [
                (each, len(unpopped(each) or ())) for each in self._with_events()
            ]

    def _after_rollback(self, session: Session) -> None:
        savepoint = session.get_nested_transaction()
        if savepoint is None:
            self.pop_events()
            return
        before = {id(each): count for each, count in self._before.get(savepoint, ())}
        for each in self._with_events():
            for event in each.pop_events()[: before.get(id(each), 0)]:
                each.publish_event(event)

    def _after_end(self, _: object, transaction: SessionTransaction) -> None:
        self._before.pop(transaction, None)
        if transaction.parent is None:
            self._flushed.clear()


def _by_id(objects: Iterable[object]) -> dict[int, _HasEvents]:
    return {
        id(each): cast("_HasEvents", each)
        for each in objects
        if callable(getattr(type(each), "pop_events", None))
    }
