"""Each property of `InboxContract` is shown to fail on an inbox that breaks it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from msgspec.structs import replace
from sqlalchemy import insert, make_url, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine

from events.errors import InboxError
from events.integration import Handle, IncomingEvent, Topic
from events.integration.implementation.sqlalchemy import (
    SQLAlchemyInbox,
    SQLAlchemyOutbox,
    current_session,
)
from events.integration.implementation.sqlalchemy._claim import Claim
from events.integration.implementation.sqlalchemy.inbox import _row
from events.integration.implementation.sqlalchemy.sessions import Handling
from events.testing.contracts import inbox as contract
from events.testing.contracts.inbox import InboxContract, handle_and_die
from tests.contracts.sqlalchemy_inbox import SQLAlchemyInboxDatabase, created


class Sabotaged(SQLAlchemyInboxDatabase):
    """The database of the contract, behind an inbox of the test's own making."""

    sabotage: ClassVar[type[Saboteur]]

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        self.inbox: Any = self.sabotage(self)

    @property
    def worker_command(self) -> Sequence[str]:
        url = self.engine.url.render_as_string(hide_password=False)
        return [sys.executable, "-m", __name__, type(self).sabotage.__name__, url]


class Saboteur:
    """An inbox without the row; a subclass spoils it in a way of its own."""

    def __init__(self, database: SQLAlchemyInboxDatabase) -> None:
        self.database = database

    async def __call__(self, incoming: IncomingEvent, call_next: Handle) -> None:
        async with self.database.sessions() as session:
            with Handling(session).current():
                await call_next(incoming)
            await session.commit()

    async def is_there(self, row: Any) -> bool:
        c = self.database.table.c
        query = select(c.consumer).where(
            c.consumer == row["consumer"], c.message_id == row["message_id"]
        )
        async with self.database.engine.connect() as connection:
            return (await connection.execute(query)).first() is not None

    async def add(self, row: Any) -> None:
        async with self.database.engine.begin() as connection:
            await connection.execute(insert(self.database.table), row)


class SelectsThenInserts(Saboteur):
    async def __call__(self, incoming: IncomingEvent, call_next: Handle) -> None:
        row = _row(incoming.delivery)
        if not await self.is_there(row):
            await super().__call__(incoming, call_next)
            with suppress(IntegrityError):
                await self.add(row)


class CommitsTheRowFirst(Saboteur):
    async def __call__(self, incoming: IncomingEvent, call_next: Handle) -> None:
        try:
            await self.add(_row(incoming.delivery))
        except IntegrityError:
            return
        await super().__call__(incoming, call_next)


class Real(Saboteur):
    """The real inbox, with a screw loose."""

    def __init__(self, database: SQLAlchemyInboxDatabase) -> None:
        super().__init__(database)
        self.real = SQLAlchemyInbox(database.sessions)

    async def __call__(self, incoming: IncomingEvent, call_next: Handle) -> None:
        await self.real(incoming, call_next)


class IgnoresTheConsumer(Real):
    async def __call__(self, incoming: IncomingEvent, call_next: Handle) -> None:
        delivery = replace(incoming.delivery, consumer="all")
        await self.real(replace(incoming, delivery=delivery), call_next)


class IgnoresCase(Real):
    async def __call__(self, incoming: IncomingEvent, call_next: Handle) -> None:
        delivery = replace(incoming.delivery, id=incoming.delivery.id.lower())
        await self.real(replace(incoming, delivery=delivery), call_next)


class SwallowsErrors(Real):
    async def __call__(self, incoming: IncomingEvent, call_next: Handle) -> None:
        async def swallow(incoming: IncomingEvent) -> None:
            with suppress(Exception):
                await call_next(incoming)

        await self.real(incoming, swallow)


class CommitsWhenCancelled(Real):
    async def __call__(self, incoming: IncomingEvent, call_next: Handle) -> None:
        cancelled = False

        async def swallow(incoming: IncomingEvent) -> None:
            nonlocal cancelled
            try:
                await call_next(incoming)
            except asyncio.CancelledError:
                cancelled = True

        await self.real(incoming, swallow)
        if cancelled:
            raise asyncio.CancelledError


class PutsOutsideOfIt(Real):
    async def __call__(self, incoming: IncomingEvent, call_next: Handle) -> None:
        async def elsewhere(event: Any) -> None:
            async with self.database.sessions() as other:
                await SQLAlchemyOutbox(other).put(Topic("elsewhere"), event)
                await other.rollback()

        self.database.put = elsewhere  # type: ignore[method-assign]
        await self.real(incoming, call_next)


class ForgetsRollbacks(Real):
    """Commits whatever the session holds at the end, as a first try of ours would have."""

    async def __call__(self, incoming: IncomingEvent, call_next: Handle) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Claim, "after_begin", lambda *_: None)
            patch.setattr(Claim, "commit", lambda _, session: session.commit())
            await self.real(incoming, call_next)


class SaysTheRowIsThere(Real):
    """Claims again after a rollback, and takes somebody else's row for its own."""

    async def __call__(self, incoming: IncomingEvent, call_next: Handle) -> None:
        def again(claim: Claim, connection: Any) -> None:
            claim._insert(connection)
            claim._duplicate = False

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Claim, "_again", again)
            await self.real(incoming, call_next)


class LosesItsTransaction(Real):
    """Its database undoes the transaction after an error, and nobody looks."""

    async def __call__(self, incoming: IncomingEvent, call_next: Handle) -> None:
        async def fail() -> None:
            connection = await current_session().connection()
            await connection.exec_driver_sql("ROLLBACK")
            await kept()

        kept, self.database.fail = self.database.fail, fail  # type: ignore[method-assign]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Claim, "before_commit", lambda *_: None)
            await self.real(incoming, call_next)


class OverlooksEndings(Real):
    """Takes the end of a session for the handler's wish, as it once did."""

    async def __call__(self, incoming: IncomingEvent, call_next: Handle) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Claim, "_refuse_if_ended", lambda _: None)
            await self.real(incoming, call_next)


class ResentsRollbacks(Real):
    async def __call__(self, incoming: IncomingEvent, call_next: Handle) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Claim, "after_soft_rollback", lambda *_: None)
            await self.real(incoming, call_next)


TESTS = InboxContract
CASES: list[tuple[type[Saboteur], Callable[..., Awaitable[None]], dict[str, Any]]] = [
    (Saboteur, TESTS.test_37_the_second_delivery_is_not_handled, {}),
    (IgnoresTheConsumer, TESTS.test_37_each_consumer_and_each_message_is_handled, {}),
    (IgnoresCase, TESTS.test_37_names_and_ids_that_look_alike_are_not_the_same, {}),
    (CommitsTheRowFirst, TESTS.test_37_a_handler_that_raises_leaves_no_row, {}),
    (SwallowsErrors, TESTS.test_37_a_handler_that_raises_leaves_no_row, {}),
    (CommitsWhenCancelled, TESTS.test_37_a_cancelled_handler_leaves_no_row, {}),
    (PutsOutsideOfIt, TESTS.test_37_events_that_it_puts_out_ride_along, {}),
    (SelectsThenInserts, TESTS.test_37_of_two_at_once_one_waits, {}),
    (CommitsTheRowFirst, TESTS.test_37_if_the_first_fails_the_one_that_waited_handles, {}),
    (SelectsThenInserts, TESTS.test_37_many_at_once_have_one_effect, {}),
    (SelectsThenInserts, TESTS.test_37_the_row_rides_in_the_first_commit, {}),
    (Saboteur, TESTS.test_37_what_follows_a_commit_is_committed_too, {}),
    (ForgetsRollbacks, TESTS.test_37_a_handler_that_rolls_back_and_returns_has_handled, {}),
    (ForgetsRollbacks, TESTS.test_37_after_a_rollback_the_row_comes_first_again, {}),
    (SaysTheRowIsThere, TESTS.test_37_who_rolls_back_may_lose_the_event_to_another, {"writes": 1}),
    (LosesItsTransaction, TESTS.test_37_an_error_that_is_swallowed_loses_nothing, {}),
    (OverlooksEndings, TESTS.test_41_a_session_that_the_handler_ends_loses_nothing, {}),
    (
        OverlooksEndings,
        TESTS.test_41_a_session_that_is_used_on_after_its_end_loses_nothing,
        {"commits": 1},
    ),
    (ResentsRollbacks, TESTS.test_41_after_a_commit_or_a_rollback_the_session_may_end, {}),
    (
        CommitsTheRowFirst,
        TESTS.test_37_a_killed_process_has_the_effect_once,
        {"step": "written", "kept": 0},
    ),
    (
        Saboteur,
        TESTS.test_37_a_killed_process_has_the_effect_once,
        {"step": "committed", "kept": 1},
    ),
]


async def play(
    folder: Path,
    saboteur: type[Saboteur],
    test: Callable[..., Awaitable[None]],
    arguments: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(contract, "DEADLINE", 5.0)
    monkeypatch.setattr(contract, "TOGETHER", 60.0)  # who is broken needs no more than it takes
    monkeypatch.setattr(Sabotaged, "sabotage", saboteur, raising=False)
    async with created(make_url(f"sqlite+aiosqlite:///{folder}/inbox.db"), Sabotaged) as database:
        await test(InboxContract(), database, **arguments)


@pytest.mark.parametrize(
    ("saboteur", "test", "arguments"),
    CASES,
    ids=[f"{case[0].__name__}-{case[1].__name__}" for case in CASES],
)
async def test_an_inbox_that_breaks_it_is_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    saboteur: type[Saboteur],
    test: Callable[..., Awaitable[None]],
    arguments: dict[str, Any],
) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception, TimeoutError, InboxError)):
        await play(tmp_path, saboteur, test, arguments, monkeypatch)


def test_every_property_has_a_saboteur() -> None:
    tests = {name for name in vars(InboxContract) if name.startswith("test_")}
    assert tests == {case[1].__name__ for case in CASES}


async def main(saboteur: str, url: str, step: str) -> None:
    Sabotaged.sabotage = globals()[saboteur]
    engine = create_async_engine(url)
    await handle_and_die(Sabotaged(engine), step)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
