"""The properties of an outbox (30, 31, 33 to 36), for a bus whose consumers read what `put` has written.

That none is lost when a process dies at any step (32) is shown in `tests.databases.test_bus_faults`.

A test file gives the `harness`.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from events.errors import OutboxTableError
from events.integration import IntegrationEventBusRegistration, Topic
from events.integration.implementation.sqlalchemy import (
    SQLAlchemyIntegrationEventBus,
    SQLAlchemyOutbox,
)
from events.testing import eventually
from events.testing.contracts import Numbered, Probe
from tests.contracts.sqlalchemy_bus import DatabaseHarness, ServerHarness, SQLiteHarness

TOPIC = Topic("bus-outbox-contract")
TIMEOUT = 120.0


def _key(event: Any) -> object:
    return event.key or event.number


class _GoBack(Exception):  # noqa: N818 - no error: how a transaction is left
    """Raised to roll back a transaction or a savepoint."""


class Place:
    """A database with the tables of the bus, and one consumer that shares it over buses."""

    def __init__(self, harness: DatabaseHarness) -> None:
        self.harness = harness
        self._table = harness.metadata.tables["bus"]
        self.probe = Probe("worker")

    def bus(self) -> SQLAlchemyIntegrationEventBus:
        """Return a bus with the consumer, as another process would create it."""
        engine = create_async_engine(self.harness.url)
        self.harness.engines.append(engine)
        registration = IntegrationEventBusRegistration(
            self.probe, TOPIC, [Numbered], concurrency=5, order_by=_key
        )
        return SQLAlchemyIntegrationEventBus(engine, [registration], lease=15.0)

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncGenerator[tuple[AsyncSession, SQLAlchemyOutbox]]:
        """Begin a transaction: committed at the exit, rolled back if the body raises."""
        async with AsyncSession(self.harness.engines[0]) as session, session.begin():
            yield session, SQLAlchemyOutbox(session, table=self._table)

    async def put(self, *events: Numbered) -> None:
        async with self.unit_of_work() as (_, outbox):
            for event in events:
                await outbox.put(TOPIC, event, key=event.key or None)

    async def handled(self, count: int) -> None:
        await eventually(lambda: len(self.probe.handled) >= count, TIMEOUT)


class BusOutboxContract:
    """Give `harness`."""

    harness: type[SQLiteHarness | ServerHarness]

    @pytest.fixture
    async def place(self) -> AsyncGenerator[Place]:
        harness = await asyncio.to_thread(self.harness)
        place = Place(harness)
        async with place.bus():
            pass  # its consumer is known from now on
        yield place
        await harness.aclose()

    async def test_30_committed_is_handled_once_with_its_id(self, place: Place) -> None:
        async with place.unit_of_work() as (_, outbox):
            event = Numbered(1, text="Grüße")
            event_id = await outbox.put(TOPIC, event, headers={"tenant": "ä"})
        async with place.bus():
            await place.put(Numbered(2))
            await place.handled(2)
        first, second = place.probe.arrivals
        assert (first.event, second.event) == (event, Numbered(2))
        assert (first.delivery.id, first.delivery.headers["tenant"]) == (event_id, "ä")

    async def test_30_rolled_back_is_no_event(self, place: Place) -> None:
        async with place.bus():
            with suppress(_GoBack):
                async with place.unit_of_work() as (_, outbox):
                    await outbox.put(TOPIC, Numbered(1))
                    raise _GoBack
            await place.put(Numbered(2))
            await place.handled(1)
        assert place.probe.numbers == [2]

    async def test_30_savepoints_drop_exactly_their_own(self, place: Place) -> None:
        async with place.unit_of_work() as (session, outbox):
            await outbox.put(TOPIC, Numbered(1))
            async with session.begin_nested():
                await outbox.put(TOPIC, Numbered(2))
                with suppress(_GoBack):
                    async with session.begin_nested():
                        await outbox.put(TOPIC, Numbered(3))
                        raise _GoBack
                await outbox.put(TOPIC, Numbered(4))
        async with place.bus():
            await place.put(Numbered(5))
            await place.handled(4)
        assert sorted(place.probe.numbers) == [1, 2, 4, 5]

    async def test_31_writers_beside_a_consumer_lose_nothing(self, place: Place) -> None:
        """Their ids are given in one order and committed in another."""
        writers, commits, each = 4, 10, 4

        async def write(writer: int) -> None:
            for commit in range(commits):
                first = (writer * commits + commit) * each
                await place.put(*map(Numbered, range(first, first + each)))

        async with place.bus():
            await asyncio.gather(*map(write, range(writers)))
            await place.handled(writers * commits * each)
        assert sorted(place.probe.numbers) == list(range(writers * commits * each))

    @pytest.mark.parametrize("buses", [2, 4])
    async def test_33_no_event_is_handled_by_two(self, place: Place, buses: int) -> None:
        async with AsyncExitStack() as stack:
            for _ in range(buses):
                await stack.enter_async_context(place.bus())
            for start in range(0, 200, 50):
                await place.put(*map(Numbered, range(start, start + 50)))
            await place.handled(200)
        assert Counter(place.probe.numbers) == Counter(range(200))

    async def test_34_a_row_that_cannot_be_read_is_a_dead_letter_and_stops_no_other(
        self, place: Place
    ) -> None:
        bad = 2
        async with place.unit_of_work() as (_, outbox):
            ids = [await outbox.put(TOPIC, Numbered(number)) for number in range(5)]
        change = "UPDATE {} SET headers = REPLACE(headers, '{}', '{}') WHERE event_id = '{}'"
        await place.harness.execute(change.format("bus", "{", "<", ids[bad]))
        async with place.bus() as bus:
            await place.handled(4)

            async def is_dead() -> bool:
                return bool(await bus.dead_letters(place.probe))

            await eventually(is_dead, TIMEOUT)
            [letter] = await bus.dead_letters(place.probe)
            assert (letter.reason, letter.message.id) == ("undecodable", ids[bad])
            assert "headers" in letter.error
            assert bad not in place.probe.numbers
            await place.harness.execute(change.format("bus_dead_letters", "<", "{", ids[bad]))
            assert await bus.redrive(place.probe, [letter]) == 1
            await place.handled(5)
        assert (place.probe.numbers[-1], place.probe.arrivals[-1].delivery.id) == (bad, ids[bad])

    async def test_35_a_table_that_was_away_has_its_backlog_handled(self, place: Place) -> None:
        count = 200
        async with place.bus() as bus:
            async with place.harness.without("bus"):
                await eventually(lambda: not bus.health().healthy, TIMEOUT)
                with pytest.raises(OutboxTableError):
                    await place.put(Numbered(-1))
            await place.put(*map(Numbered, range(count)))
            await place.handled(count)
            await eventually(lambda: bus.health().healthy, TIMEOUT)
            tasks = len(asyncio.all_tasks())
            async with place.harness.without("bus"):
                await eventually(lambda: not bus.health().healthy, TIMEOUT)
            await eventually(lambda: bus.health().healthy, TIMEOUT)
            # A few may be about: a driver closes its connections in tasks of their own.
            assert len(asyncio.all_tasks()) <= tasks + 3
        assert Counter(place.probe.numbers) == Counter(range(count))
        assert set(place.probe.attempts) == {1}, "it was no event's fault"

    async def test_36_events_of_a_key_stay_in_order_with_several_buses(self, place: Place) -> None:
        keys, each = 8, 20
        async with AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(place.bus())
            for number in range(each):
                await place.put(*(Numbered(number, key=f"key {key}") for key in range(keys)))
            await place.handled(keys * each)
        numbers = defaultdict[str, list[int]](list)
        for event in place.probe.handled:
            numbers[event.key].append(event.number)
        assert numbers == {f"key {key}": list(range(each)) for key in range(keys)}
