"""What several relays on one outbox must show on every database: conformance 33 to 36, and 40.

The fixture `database` is that of `OutboxContract`.
"""
# ruff: noqa: D102, PLR2004 - a test's name is its documentation, a literal what is asserted

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from events.errors import BusError, BusUnavailableError
from events.integration.message import Message
from events.integration.outbox import PARTITIONS, Lease, Order, OutboxRelay
from events.integration.outbox.partitions import renew
from events.integration.topology import RetryPolicy
from events.testing.contracts.outbox import (
    DEADLINE,
    LEASE,
    LONG_LEASE,
    TOPIC,
    Counted,
    ForwardedBus,
    OutboxDatabase,
    frozen_at,
    pending,
    relay_process,
)
from events.testing.waiting import eventually

__all__ = ["RelaysContract"]

QUICKLY = RetryPolicy(attempts=3, delay=0.01, factor=1, jitter=0)


class ScriptedBus(ForwardedBus):
    """A bus that keeps the messages of which `answer` says None, and answers the rest with it."""

    def __init__(self, answer: Callable[[Message], BusError | None]) -> None:
        super().__init__()
        self._answer = answer

    async def forward(self, messages: Sequence[Message]) -> Sequence[Any]:
        """Answer each."""
        await asyncio.sleep(0)
        answers = [self._answer(message) for message in messages]
        self.messages += [m for m, answer in zip(messages, answers, strict=True) if answer is None]
        return answers


class RelaysContract:
    """Yield the fixture `database`."""

    @pytest.fixture
    def database(self) -> OutboxDatabase:
        """Return a database whose outbox is empty."""
        raise NotImplementedError

    # --- 33: partitions
    # ----------------------------------------------------------------------------

    @pytest.mark.parametrize("relays", [2, 4])
    async def test_33_no_row_is_sent_by_two(self, database: OutboxDatabase, relays: int) -> None:
        writers, commits, each = 2, 30, 5

        async def write(writer: int) -> None:
            for commit in range(commits):
                async with database.unit_of_work() as unit:
                    for position in range(each):
                        number = (writer * commits + commit) * each + position
                        await unit.outbox.put(TOPIC, Counted(number))

        buses = [ForwardedBus() for _ in range(relays)]
        async with _relaying(database, buses, batch=7) as all_relays, asyncio.timeout(DEADLINE):
            await asyncio.gather(*map(write, range(writers)))
            await asyncio.gather(*(relay.drain() for relay in all_relays))
            await eventually(
                lambda: (
                    {relay.health().partitions for relay in all_relays} == {PARTITIONS // relays}
                ),
                DEADLINE,
            )
            # Now that all of them have partitions, each has its part of what comes.
            await asyncio.gather(*map(write, range(writers)))
            await asyncio.gather(*(relay.drain() for relay in all_relays))
        sent = Counter(number for bus in buses for number in bus.numbers)
        assert sent == dict.fromkeys(range(writers * commits * each), 2)
        assert all(bus.messages for bus in buses), [len(bus.messages) for bus in buses]
        assert await pending(database.store) == []

    async def test_33_what_a_dead_relay_held_is_taken_over_after_its_lease(
        self, database: OutboxDatabase
    ) -> None:
        async with database.unit_of_work() as unit:
            for number in range(50):
                await unit.outbox.put(TOPIC, Counted(number))
        dead = Lease("dead", "x", frozenset(), LEASE, 0.0)
        began = asyncio.get_running_loop().time()
        await database.store.renew(lambda leases: renew(leases, dead))

        bus = ForwardedBus()
        async with OutboxRelay(database.store, bus, lease=LEASE) as relay:
            async with asyncio.timeout(DEADLINE):
                await relay.drain()
            assert relay.health().partitions == PARTITIONS
        assert asyncio.get_running_loop().time() - began > LEASE / 2, "it did not wait"
        assert sorted(bus.numbers) == list(range(50))

    async def test_33_a_relay_that_was_frozen_past_its_lease_does_not_send(
        self, database: OutboxDatabase, tmp_path: Path
    ) -> None:
        async with database.unit_of_work() as unit:
            for number in range(20):
                await unit.outbox.put(TOPIC, Counted(number))
        journal = tmp_path / "accepted"
        async with relay_process(database, journal, "frozen") as frozen:
            # It stops itself, with the rows in its hand.
            await eventually(frozen_at(journal).exists, DEADLINE)
            bus = ForwardedBus()
            async with OutboxRelay(database.store, bus, lease=LONG_LEASE) as relay:
                async with asyncio.timeout(DEADLINE):
                    await relay.drain()
                assert bus.numbers == list(range(20))

                def has_ended() -> bool:
                    with suppress(ProcessLookupError):
                        frozen.send_signal(signal.SIGCONT)  # again, if it stops itself only now
                    return frozen.returncode is not None

                await eventually(has_ended, DEADLINE)
                assert frozen.returncode == 0
        assert not journal.read_text(), "it has sent what was another's by then"

    # --- 34: rows that cannot be sent ---------------------------------------------------------

    async def test_34_a_row_that_cannot_be_sent_is_parked_and_stops_no_other(
        self, database: OutboxDatabase
    ) -> None:
        bad: set[int] = {3, 4}
        tries: Counter[int] = Counter()

        def answer(message: Message) -> BusError | None:
            number = _number(message)
            tries[number] += 1
            return BusError(f"no place for {number}") if number in bad else None

        async with database.unit_of_work() as unit:
            for number in range(10):
                await unit.outbox.put(TOPIC, Counted(number))
        ids = {_number(row.message): row.message.id for row in await pending(database.store)}
        bus = ScriptedBus(answer)
        async with OutboxRelay(database.store, bus, lease=LONG_LEASE, retry=QUICKLY) as relay:
            async with asyncio.timeout(DEADLINE):
                while len(await relay.parked()) < len(bad):
                    await relay.drain()
                    await asyncio.sleep(0.01)
            assert sorted(bus.numbers) == [0, 1, 2, 5, 6, 7, 8, 9]
            assert tries[3] == tries[4] == QUICKLY.attempts
            assert (await relay.stats()).parked == len(bad)

            first, second = await relay.parked()
            assert (_number(first.message), first.message.id) == (3, ids[3])
            assert (first.attempts, first.reason) == (QUICKLY.attempts, "retries-exhausted")
            assert first.error == "BusError: no place for 3"
            assert await relay.parked(limit=1) == [first]
            assert await relay.parked(limit=5, after=first.id) == [second]

            bad.clear()
            assert await relay.redrive(first) == 1
            assert await relay.discard([second.id]) == 1
            assert await relay.parked() == []
            async with asyncio.timeout(DEADLINE):
                await relay.drain()
        assert bus.numbers[-1] == 3
        assert bus.messages[-1].id == ids[3]
        assert tries[4] == QUICKLY.attempts
        assert await pending(database.store) == []

    # --- 35: a broker that is down ------------------------------------------------------------

    async def test_35_a_broker_that_was_down_gets_the_backlog(
        self, database: OutboxDatabase
    ) -> None:
        down = True
        batches: list[int] = []

        class Down(ScriptedBus):
            async def forward(self, messages: Sequence[Message]) -> Sequence[Any]:
                batches.append(len(messages))
                return await super().forward(messages)

        bus = Down(lambda _: BusUnavailableError("the bus", "it is down") if down else None)
        async with OutboxRelay(database.store, bus, lease=LEASE, batch=50) as relay:
            for commit in range(10):
                async with database.unit_of_work() as unit:
                    for position in range(50):
                        await unit.outbox.put(TOPIC, Counted(commit * 50 + position))
            await eventually(lambda: relay.health().outage, DEADLINE)
            tasks = len(asyncio.all_tasks())
            tried = len(batches)
            # Its waiting grows, so this is for longer than its lease, which it has to renew.
            await eventually(lambda: len(batches) > tried + 5, DEADLINE)
            assert relay.health().partitions == PARTITIONS
            # A few may be about: a driver closes its connections in tasks of their own.
            assert len(asyncio.all_tasks()) <= tasks + 3
            rows = await pending(database.store)
            assert len(rows) == 500
            assert {row.attempts for row in rows} == {0}, "it was no row's fault"
            down = False
            async with asyncio.timeout(DEADLINE):
                await relay.drain()
            assert relay.health().healthy
        assert sorted(bus.numbers) == list(range(500))
        assert max(batches) == 50

    # --- 40: bounded in bytes -----------------------------------------------------------------

    @pytest.mark.parametrize("order", ["best_effort", "per_key"])
    async def test_40_large_bodies_leave_in_batches_that_weigh_no_more_than_they_may(
        self, database: OutboxDatabase, order: Order
    ) -> None:
        in_flight: list[int] = []

        class Weighing(ScriptedBus):
            weight = 0

            async def forward(self, messages: Sequence[Message]) -> Sequence[Any]:
                weight = sum(len(message.body) for message in messages)
                self.weight += weight
                in_flight.append(self.weight)
                answers = await super().forward(messages)
                self.weight -= weight
                return answers

        events, length, most = 40, 100_000, 500_000
        bus = Weighing(lambda _: None)
        for number in range(events):
            async with database.unit_of_work() as unit:
                # Some are small, and come with the large.
                text = "x" * (length if number % 4 else 10)
                await unit.outbox.put(TOPIC, Counted(number, text), key=f"key-{number % 7}")
        relay = OutboxRelay(database.store, bus, lease=LONG_LEASE, batch_bytes=most, order=order)
        async with relay, asyncio.timeout(DEADLINE):
            await relay.drain()
        assert sorted(bus.numbers) == list(range(events))
        heaviest = max(len(message.body) for message in bus.messages)
        # Two batches, each ended by the row that brings it to what it may weigh.
        assert max(in_flight) <= 2 * (most + heaviest)

    # --- 36: the order of keys ----------------------------------------------------------------

    async def test_36_per_key_keeps_the_order_of_commits_with_several_relays(
        self, database: OutboxDatabase
    ) -> None:
        keys, each, relays = 6, 25, 3
        chance = random.Random(7)  # noqa: S311 - no secret
        refused: set[int] = set()

        def answer(message: Message) -> BusError | None:
            number = _number(message)
            if number not in refused and chance.random() < 0.1:
                refused.add(number)
                return BusError("not now")
            return None

        async def write(key: int) -> None:
            # One after another, as those do that update one aggregate.
            for position in range(each):
                async with database.unit_of_work() as unit:
                    await unit.outbox.put(TOPIC, Counted(key * each + position), key=f"key-{key}")

        bus = ScriptedBus(answer)
        options = {"batch": 9, "order": "per_key", "retry": QUICKLY}
        async with _relaying(database, [bus] * relays, **options) as all_relays:
            async with asyncio.timeout(DEADLINE):
                writing = asyncio.gather(*map(write, range(keys)))
                await eventually(lambda: len(bus.messages) > 10, DEADLINE)
                await all_relays[0].shutdown()  # its partitions go to the others
                await writing
                while len(bus.messages) < keys * each:
                    await all_relays[1].drain()
                    await asyncio.sleep(0.01)
        assert refused, "nothing was refused, so nothing was shown"
        order: defaultdict[str | None, list[int]] = defaultdict(list)
        for message, number in zip(bus.messages, bus.numbers, strict=True):
            order[message.key].append(number)
        for key in range(keys):
            assert order[f"key-{key}"] == [key * each + n for n in range(each)]

    async def test_36_a_failing_row_holds_up_its_key_alone(self, database: OutboxDatabase) -> None:
        bad = {1}
        bus = ScriptedBus(lambda m: BusError("not now") if _number(m) in bad else None)
        retry = RetryPolicy(attempts=1_000, delay=0.02, factor=1, jitter=0)
        async with database.unit_of_work() as unit:
            for number, key in enumerate(["a", "b", "a", "b", "c", "b"]):
                await unit.outbox.put(TOPIC, Counted(number), key=key)
        relay = OutboxRelay(database.store, bus, lease=LONG_LEASE, order="per_key", retry=retry)
        async with relay, asyncio.timeout(DEADLINE):
            await eventually(lambda: len(bus.messages) >= 3, DEADLINE)
            async with database.unit_of_work() as unit:
                await unit.outbox.put(TOPIC, Counted(6), key="b")
                await unit.outbox.put(TOPIC, Counted(7), key="a")
            await eventually(lambda: 7 in bus.numbers, DEADLINE)
            assert sorted(bus.numbers) == [0, 2, 4, 7]
            bad.clear()
            await eventually(lambda: len(bus.messages) == 8, DEADLINE)
        assert [number for number in bus.numbers if number in (1, 3, 5, 6)] == [1, 3, 5, 6]


@asynccontextmanager
async def _relaying(
    database: OutboxDatabase, buses: Sequence[ForwardedBus], **options: Any
) -> AsyncGenerator[list[OutboxRelay]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                OutboxRelay(database.store, bus, lease=LONG_LEASE, **options)
            )
            for bus in buses
        ]


def _number(message: Message) -> int:
    bus = ForwardedBus()
    bus.messages.append(message)
    return bus.numbers[0]
