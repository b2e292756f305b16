"""What an inbox must show on every database: conformance 37 and 41.

A test file gives the fixture `database`; what the suite needs of it is an `InboxDatabase`. It
starts empty, with its tables made.
"""
# ruff: noqa: D102 - a test's name is its documentation

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from itertools import product
from typing import Any

import pytest

from events.errors import InboxError
from events.testing.contracts._inbox_database import (
    ANOTHER,
    DEADLINE,
    ID,
    Handler,
    InboxDatabase,
    Noted,
    deliver,
    handle_and_die,
)
from events.testing.waiting import eventually

__all__ = ["InboxContract", "InboxDatabase", "Noted", "handle_and_die"]

TOGETHER = 0.3  # seconds in which a second handler would begin beside the first


class _FailedError(Exception):
    """What a handler of the suite raises."""


class InboxContract:
    """Yield the fixture `database`."""

    @pytest.fixture
    def database(self) -> InboxDatabase:
        """Return a database whose inbox is empty."""
        raise NotImplementedError

    # --- one after the other ------------------------------------------------------------------

    async def test_37_the_second_delivery_is_not_handled(self, database: InboxDatabase) -> None:
        async def handler() -> None:
            await database.write(1)

        assert await deliver(database, handler)
        assert not await deliver(database, handler)
        assert (await database.effects(), await database.rows()) == ([1], 1)

    async def test_37_each_consumer_and_each_message_is_handled(
        self, database: InboxDatabase
    ) -> None:
        for number, (id_, consumer) in enumerate(
            [(ID, "worker"), (ANOTHER, "worker"), (ID, "other"), (ANOTHER, "other")]
        ):

            async def handler(number: int = number) -> None:
                await database.write(number)

            assert await deliver(database, handler, id_, consumer)
        assert (await database.effects(), await database.rows()) == ([0, 1, 2, 3], 4)

    async def test_37_names_and_ids_that_look_alike_are_not_the_same(
        self, database: InboxDatabase
    ) -> None:
        ids = ["a", "A", "ä", "Ä", "a ", "a\0", "x" * 10_000, "x" * 9_999, "1", "01"]
        for id_ in ids:
            assert await deliver(database, _nothing, id_), f"{id_[:10]!r} was taken for another"
        for consumer in ("emails", "Emails", "émails", "Ключ"):
            assert await deliver(database, _nothing, ID, consumer), consumer
        for id_ in ids:
            assert not await deliver(database, _nothing, id_), f"{id_[:10]!r} was handled twice"
        assert await database.rows() == len(ids) + 4

    async def test_37_a_handler_that_raises_leaves_no_row(self, database: InboxDatabase) -> None:
        async def handler() -> None:
            await database.write(1)
            raise _FailedError

        with pytest.raises(_FailedError):
            await deliver(database, handler)
        assert (await database.effects(), await database.rows()) == ([], 0)

        async def again() -> None:
            await database.write(2)

        assert await deliver(database, again)
        assert (await database.effects(), await database.rows()) == ([2], 1)

    async def test_37_a_cancelled_handler_leaves_no_row(self, database: InboxDatabase) -> None:
        written = asyncio.Event()

        async def handler() -> None:
            await database.write(1)
            written.set()
            await asyncio.Event().wait()

        running = asyncio.create_task(deliver(database, handler))
        await asyncio.wait_for(written.wait(), DEADLINE)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (await database.effects(), await database.rows()) == ([], 0)
        assert await deliver(database, _nothing)

    async def test_37_events_that_it_puts_out_ride_along(self, database: InboxDatabase) -> None:
        async def failing() -> None:
            await database.put(Noted(1))
            raise _FailedError

        with pytest.raises(_FailedError):
            await deliver(database, failing)
        assert await database.waiting() == 0

        async def handler() -> None:
            await database.put(Noted(2))

        assert await deliver(database, handler)
        assert not await deliver(database, handler)
        assert await database.waiting() == 1

    # --- at the same time ---------------------------------------------------------------------

    async def test_37_of_two_at_once_one_waits(self, database: InboxDatabase) -> None:
        first, second, go = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def slow() -> None:
            await database.write(1)
            first.set()
            await go.wait()

        async def late() -> None:
            second.set()
            await database.write(2)

        async with _tasks() as start:
            one = start(deliver(database, slow))
            await asyncio.wait_for(first.wait(), DEADLINE)
            two = start(deliver(database, late))
            begun = start(second.wait())
            await asyncio.wait([two, begun], timeout=TOGETHER, return_when=asyncio.FIRST_COMPLETED)
            assert not second.is_set(), "both were in their handlers"
            go.set()
            assert await one
            assert not await two
        assert (await database.effects(), await database.rows()) == ([1], 1)

    async def test_37_if_the_first_fails_the_one_that_waited_handles(
        self, database: InboxDatabase
    ) -> None:
        first, go = asyncio.Event(), asyncio.Event()

        async def failing() -> None:
            await database.write(1)
            first.set()
            await go.wait()
            raise _FailedError

        async def late() -> None:
            await database.write(2)

        async with _tasks() as start:
            one = start(deliver(database, failing))
            await asyncio.wait_for(first.wait(), DEADLINE)
            two = start(deliver(database, late))
            await asyncio.wait([two], timeout=0.3)
            go.set()
            with pytest.raises(_FailedError):
                await one
            assert await two
        assert (await database.effects(), await database.rows()) == ([2], 1)

    async def test_37_many_at_once_have_one_effect(self, database: InboxDatabase) -> None:
        async def handler() -> None:
            await asyncio.sleep(0)
            await database.write(1)

        calls = await asyncio.gather(
            *(deliver(database, handler) for _ in range(8)), return_exceptions=True
        )
        # A database may refuse one of them, as after a deadlock: then it is delivered again.
        assert calls.count(True) <= 1, calls
        assert await deliver(database, handler) is (True not in calls)
        assert (await database.effects(), await database.rows()) == ([1], 1)

    # --- handlers that end the transaction themselves -----------------------------------------

    async def test_37_the_row_rides_in_the_first_commit(self, database: InboxDatabase) -> None:
        async def handler() -> None:
            await database.write(1)
            await database.commit()
            await database.write(2)
            raise _FailedError

        with pytest.raises(_FailedError):
            await deliver(database, handler)
        assert (await database.effects(), await database.rows()) == ([1], 1)
        assert not await deliver(database, handler)
        assert await database.effects() == [1]

    async def test_37_what_follows_a_commit_is_committed_too(self, database: InboxDatabase) -> None:
        async def handler() -> None:
            await database.write(1)
            await database.commit()
            await database.write(2)

        assert await deliver(database, handler)
        assert (await database.effects(), await database.rows()) == ([1, 2], 1)

    async def test_37_a_handler_that_rolls_back_and_returns_has_handled(
        self, database: InboxDatabase
    ) -> None:
        async def handler() -> None:
            await database.write(1)
            await database.roll_back()

        assert await deliver(database, handler)
        assert (await database.effects(), await database.rows()) == ([], 1)
        assert not await deliver(database, handler)

    async def test_37_after_a_rollback_the_row_comes_first_again(
        self, database: InboxDatabase
    ) -> None:
        async def handler() -> None:
            await database.write(1)
            await database.roll_back()
            await database.write(2)
            await database.commit()
            raise _FailedError

        with pytest.raises(_FailedError):
            await deliver(database, handler)
        assert (await database.effects(), await database.rows()) == ([2], 1)
        assert not await deliver(database, handler)

    @pytest.mark.parametrize("writes", [0, 1])
    async def test_37_who_rolls_back_may_lose_the_event_to_another(
        self, database: InboxDatabase, writes: int
    ) -> None:
        async def other() -> None:
            await database.write(2)

        async def handler() -> None:
            await database.write(1)
            await database.roll_back()
            assert await asyncio.create_task(deliver(database, other))
            if writes:
                await database.write(3)

        await deliver(database, handler)  # as a duplicate: it was handled meanwhile
        assert (await database.effects(), await database.rows()) == ([2], 1)

    async def test_37_an_error_that_is_swallowed_loses_nothing(
        self, database: InboxDatabase
    ) -> None:
        async def handler() -> None:
            await database.write(1)
            try:
                await database.fail()
            except Exception:  # noqa: BLE001 - of whatever database
                return
            pytest.fail("the database did not refuse it")

        try:
            await deliver(database, handler)
        except Exception:  # noqa: BLE001 - what the database has undone must not look handled
            assert (await database.effects(), await database.rows()) == ([], 0)
        else:
            assert (await database.effects(), await database.rows()) == ([1], 1)

    # --- handlers that end the session instead --------------------------------------------------

    async def test_41_a_session_that_the_handler_ends_loses_nothing(
        self, database: InboxDatabase
    ) -> None:
        for number, (name, end) in enumerate(database.endings.items()):
            id_ = f"{ID[:-3]}{number:03}"

            async def handler(
                number: int = number, end: Callable[[], Awaitable[None]] = end
            ) -> None:
                await database.write(number)
                await end()

            await _refused(database, handler, id_, name, kept=number)

            async def again(number: int = number) -> None:
                await database.write(number)

            assert await deliver(database, again, id_), f"{name}: taken for a duplicate"
            assert await database.effects() == list(range(number + 1)), name

    @pytest.mark.parametrize("commits", [0, 1])
    async def test_41_a_session_that_is_used_on_after_its_end_loses_nothing(
        self, database: InboxDatabase, commits: int
    ) -> None:
        for name, end in database.endings.items():

            async def handler(end: Callable[[], Awaitable[None]] = end) -> None:
                await database.write(1)
                await end()
                await database.write(2)
                if commits:
                    await database.commit()

            await _refused(database, handler, ID, name, kept=0)

    async def test_41_after_a_commit_or_a_rollback_the_session_may_end(
        self, database: InboxDatabase
    ) -> None:
        finals = {"commit": database.commit, "rollback": database.roll_back}
        kept: list[int] = []
        for number, (final, (name, end)) in enumerate(
            product(finals, database.endings.items()), start=1
        ):
            id_ = f"{ID[:-3]}{number:03}"

            async def handler(
                number: int = number, final: str = final, end: Callable[[], Awaitable[None]] = end
            ) -> None:
                await database.write(number)
                await finals[final]()
                await end()

            assert await deliver(database, handler, id_)
            if final == "commit":
                kept.append(number)
            assert (await database.effects(), await database.rows()) == (kept, number), name

    # --- killed -------------------------------------------------------------------------------

    @pytest.mark.parametrize(("step", "kept"), [("written", 0), ("committed", 1)])
    async def test_37_a_killed_process_has_the_effect_once(
        self, database: InboxDatabase, step: str, kept: int
    ) -> None:
        assert await _worker(database, step) == -signal.SIGKILL
        # A server notices a moment later that its client is gone, and rolls back.
        await eventually(lambda: _counted(database, kept), DEADLINE)
        assert await _worker(database, "none") == 0
        assert (await database.effects(), await database.rows()) == ([1], 1)


@asynccontextmanager
async def _tasks() -> AsyncGenerator[Callable[[Coroutine[Any, Any, bool]], asyncio.Task[bool]]]:
    """Yield a function that starts tasks; all of them end with the block, also if it fails."""
    tasks: list[asyncio.Task[bool]] = []

    def start(coroutine: Coroutine[Any, Any, bool]) -> asyncio.Task[bool]:
        tasks.append(asyncio.create_task(coroutine))
        return tasks[-1]

    try:
        yield start
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _refused(
    database: InboxDatabase, handler: Handler, id: str, name: str, *, kept: int
) -> None:
    """Deliver to a handler that ends its session: an error, and nothing is left of it."""
    try:
        await deliver(database, handler, id)
    except InboxError:
        found = len(await database.effects()), await database.rows()
        assert found == (kept, kept), f"{name}: effects and rows are {found}"
    else:
        pytest.fail(f"{name}: the event counts as handled, and its effect is gone")


async def _nothing() -> None:
    """Handle without an effect."""


async def _counted(database: InboxDatabase, kept: int) -> bool:
    return (len(await database.effects()), await database.rows()) == (kept, kept)


async def _worker(database: InboxDatabase, step: str) -> int:
    process = await asyncio.create_subprocess_exec(*database.worker_command, step)
    try:
        async with asyncio.timeout(DEADLINE):
            return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
