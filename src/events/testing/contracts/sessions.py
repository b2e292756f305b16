"""What outbox and inbox must show with every kind of session: conformance 42.

A session may route its statements, share its `info` with another, or translate schemas. Rows must
still be written on the connection of the unit of work: both are committed, or neither is.

A test file gives the fixture `database` for each kind; what the suite needs of it is a
`SessionsDatabase`. It starts empty, with its tables made.
"""
# ruff: noqa: D102 - a test's name is its documentation

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import Protocol

import pytest

from events.integration.event import IntegrationEvent
from events.integration.pipeline import Middleware
from events.testing.contracts._inbox_database import Noted, deliver

__all__ = ["SessionUnit", "SessionsContract", "SessionsDatabase"]


class SessionUnit(Protocol):
    """A transaction in a session of the kind."""

    async def write(self, effect: int) -> None:
        """Write an effect to the database, as the session writes its objects."""
        ...

    async def put(self, event: IntegrationEvent) -> None:
        """Put an event into the outbox."""
        ...

    async def disconnect(self) -> None:
        """Cut the connection on which effects are written."""
        ...


class SessionsDatabase(Protocol):
    """A database that is used through one kind of session."""

    @property
    def inbox(self) -> Middleware:
        """Return an inbox with such sessions."""
        ...

    def unit_of_work(self) -> AbstractAsyncContextManager[SessionUnit]:
        """Begin a transaction: committed at the exit, rolled back if the body raises."""
        ...

    def current(self) -> SessionUnit:
        """Return the transaction of the event that is being handled."""
        ...

    async def effects(self) -> list[int]:
        """Return all committed effects, in the order of their numbers."""
        ...

    async def rows(self) -> int:
        """Return how many rows the inbox has committed."""
        ...

    async def waiting(self) -> int:
        """Return how many events the outbox has committed."""
        ...


class _GoBack(Exception):  # noqa: N818 - no error: how the suite leaves a transaction
    """Raised to have a transaction rolled back."""


class SessionsContract:
    """Yield the fixture `database`."""

    @pytest.fixture
    def database(self) -> SessionsDatabase:
        """Return a database that is empty."""
        raise NotImplementedError

    async def test_42_effects_and_events_are_committed_together(
        self, database: SessionsDatabase
    ) -> None:
        for number in (1, 2, 3):
            async with database.unit_of_work() as unit:
                await unit.write(number)
                await unit.put(Noted(number))
            assert (len(await database.effects()), await database.waiting()) == (number, number)

    async def test_42_effects_and_events_are_rolled_back_together(
        self, database: SessionsDatabase
    ) -> None:
        for number in (1, 2, 3):
            with suppress(_GoBack):
                async with database.unit_of_work() as unit:
                    await unit.write(number)
                    await unit.put(Noted(number))
                    raise _GoBack
            assert (await database.effects(), await database.waiting()) == ([], 0)

    async def test_42_a_commit_that_fails_leaves_no_event(self, database: SessionsDatabase) -> None:
        async def cut(number: int) -> None:
            async with database.unit_of_work() as unit:
                await unit.write(number)
                await unit.put(Noted(number))
                await unit.disconnect()

        for number in (1, 2, 3):
            with pytest.raises(Exception):  # noqa: B017, PT011 - what a driver raises
                await cut(number)
            assert (await database.effects(), await database.waiting()) == ([], 0)

    async def test_42_an_event_that_is_put_after_the_effects_goes_with_them(
        self, database: SessionsDatabase
    ) -> None:
        async def cut() -> None:
            async with database.unit_of_work() as unit:
                await unit.write(1)
                await unit.disconnect()
                await unit.put(Noted(1))

        with pytest.raises(Exception):  # noqa: B017, PT011 - what a driver raises
            await cut()
        assert (await database.effects(), await database.waiting()) == ([], 0)

    async def test_42_of_two_sessions_each_writes_its_own(self, database: SessionsDatabase) -> None:
        async with AsyncExitStack() as stack:
            with suppress(_GoBack):
                async with database.unit_of_work() as first:
                    await first.put(Noted(1))
                    second = await stack.enter_async_context(database.unit_of_work())
                    await second.put(Noted(2))
                    raise _GoBack
            assert await database.waiting() == 0
        assert await database.waiting() == 1, "the other's event has gone with the first's"

    async def test_42_effects_and_the_inbox_are_committed_together(
        self, database: SessionsDatabase
    ) -> None:
        async def handler() -> None:
            await database.current().write(1)
            await database.current().put(Noted(1))

        assert await deliver(database, handler)
        assert not await deliver(database, handler)
        assert (await database.effects(), await database.rows()) == ([1], 1)
        assert await database.waiting() == 1

    async def test_42_a_handling_that_cannot_be_committed_leaves_no_row(
        self, database: SessionsDatabase
    ) -> None:
        async def cut() -> None:
            await database.current().write(1)
            await database.current().put(Noted(1))
            await database.current().disconnect()

        with pytest.raises(Exception):  # noqa: B017, PT011 - what a driver raises
            await deliver(database, cut)
        assert (await database.effects(), await database.rows()) == ([], 0)

        async def handler() -> None:
            await database.current().write(2)

        assert await deliver(database, handler)
        assert (await database.effects(), await database.rows()) == ([2], 1)
        assert await database.waiting() == 0
