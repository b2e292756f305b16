"""While one batch is forwarded the one before is settled: nothing in flight is read or handed over."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from events.errors import BusError, BusUnavailableError
from events.integration.bus import IntegrationEventBus
from events.integration.event import IntegrationEvent
from events.integration.message import Message
from events.integration.outbox import (
    Lease,
    OutboxRelay,
    OutboxRow,
    RelayStep,
    Renewal,
    _outage,
    _reading,
    _relay_loop,
    _settling,
    partitions,
)
from events.integration.topology import RetryPolicy, Topic
from tests.unit.integration_events.outbox_table import Table

DEADLINE = 60.0


class Watched(Table):
    """Notes what is in flight, and each step that must not be taken while that is so.

    A removal waits for `gate`.
    """

    def __init__(self, *numbers: int) -> None:
        super().__init__(*numbers)
        self.batches: deque[list[int]] = deque()
        self.in_flight: set[int] = set()
        self.wrong: list[str] = []
        self.removing = asyncio.Event()
        self.gate = asyncio.Event()

    def _check(self, step: str) -> None:
        if self.in_flight:
            self.wrong.append(f"{step} with {sorted(self.in_flight)} in flight")

    async def renew(self, decide: Callable[[Sequence[Lease]], Renewal]) -> Renewal:
        self._check("renewed")
        return await super().renew(decide)

    async def leave(self, lease: Lease) -> None:
        self._check("left")
        await super().leave(lease)

    async def due(
        self, lease: Lease, limit: int, *, after: int | None = None, max_bytes: int | None = None
    ) -> Sequence[OutboxRow]:
        rows = await super().due(lease, limit, after=after, max_bytes=max_bytes)
        again = sorted(self.in_flight.intersection(row.id for row in rows))
        if again:
            self.wrong.append(f"read {again}, which are in flight")
        return rows

    async def remove(self, ids: Collection[int]) -> None:
        self.removing.set()
        await self.gate.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        await super().remove(ids)

    def on_step(self, step: RelayStep) -> None:
        if step == "removed":
            self.in_flight.difference_update(self.batches.popleft())


class Noting(IntegrationEventBus):
    """Has what it is given noted as in flight."""

    def __init__(
        self, table: Watched, answer: Callable[[int], BusError | None] = lambda _: None
    ) -> None:
        super().__init__()
        self.table = table
        self.answer = answer
        self.accepted: list[int] = []
        self.batches: list[list[int]] = []

    async def forward(self, messages: Sequence[Message]) -> list[BusError | None]:
        numbers = [int(message.id) for message in messages]
        if numbers:  # the relay begins by asking whether the bus is started
            self.batches.append(numbers)
            self.table.batches.append(numbers)
        self.table.in_flight.update(numbers)
        for _ in range(3):
            await asyncio.sleep(0)
        outcomes = [self.answer(number) for number in numbers]
        self.accepted += [n for n, o in zip(numbers, outcomes, strict=True) if o is None]
        return outcomes

    async def send(self, topic: Topic, event: IntegrationEvent) -> None:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_outage, "_BACKOFF", RetryPolicy(delay=0.001, factor=1, jitter=0))


@pytest.fixture(autouse=True)
def _no_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have batch follow upon batch, read ahead, however slow the machine is."""
    monkeypatch.setattr(_reading, "_BUSY", DEADLINE)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the clock by which leases run out."""
    now = [1_000.0]
    monkeypatch.setattr(partitions, "_clock", lambda: lambda: now[0])
    return now


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not holds():
            await asyncio.sleep(0)


async def turns() -> None:
    """Let the relay do whatever it would do without waiting."""
    for _ in range(100):
        await asyncio.sleep(0)


@asynccontextmanager
async def second_batch_sent(table: Watched, bus: Noting) -> AsyncGenerator[OutboxRelay]:
    """Relay until the second of the batches of three was sent, while the first is being removed."""
    async with OutboxRelay(table, bus, batch=3, on_step=table.on_step) as relay:
        await until(lambda: table.removing.is_set() and len(bus.batches) == 2)
        assert 1 in table.rows
        yield relay
        table.gate.set()
        async with asyncio.timeout(DEADLINE):
            await relay.drain()
    assert table.wrong == []


async def test_a_batch_is_forwarded_while_the_one_before_is_settled() -> None:
    table = Watched(*range(1, 13))
    bus = Noting(table)
    async with second_batch_sent(table, bus):
        await turns()
        assert bus.batches == [[1, 2, 3], [4, 5, 6]], "there are two batches in flight, not more"
    assert bus.accepted == list(range(1, 13))


async def test_a_batch_is_forwarded_before_the_one_before_is_confirmed() -> None:
    table = Watched(*range(1, 13))
    table.gate.set()
    confirmed = asyncio.Event()

    class Slow(Noting):
        async def forward(self, messages: Sequence[Message]) -> list[BusError | None]:
            outcomes = await super().forward(messages)
            if messages:
                await confirmed.wait()
            return outcomes

    bus = Slow(table)
    async with OutboxRelay(table, bus, batch=3, on_step=table.on_step) as relay:
        await until(lambda: len(bus.batches) == 2)
        await turns()
        assert bus.batches == [[1, 2, 3], [4, 5, 6]], "there are two batches in flight, not more"
        assert not table.removing.is_set()
        confirmed.set()
        async with asyncio.timeout(DEADLINE):
            await relay.drain()
    assert table.wrong == []
    assert bus.accepted == list(range(1, 13))


@pytest.mark.parametrize("options", [{"order": "per_key"}, {"batches_in_flight": 1}])
async def test_with_one_batch_in_flight_each_is_settled_before_the_next(
    options: dict[str, Any],
) -> None:
    table = Watched(*range(1, 13))
    bus = Noting(table)
    async with OutboxRelay(table, bus, batch=3, on_step=table.on_step, **options) as relay:
        await until(table.removing.is_set)
        await turns()
        assert bus.batches == [[1, 2, 3]]
        table.gate.set()
        async with asyncio.timeout(DEADLINE):
            await relay.drain()
    assert table.wrong == []
    assert bus.accepted == list(range(1, 13))


async def test_partitions_are_not_handed_over_with_a_batch_in_flight(now: list[float]) -> None:
    table = Watched(*range(1, 13))
    bus = Noting(table)
    async with second_batch_sent(table, bus):
        table.leases["another"] = Lease("another", "t", frozenset(), 30.0, 30.0), 30.0
        renewed = table.renewed
        now[0] += 15
        await turns()
        assert table.renewed == renewed
        table.gate.set()
        await until(lambda: table.renewed > renewed)
        assert len(table.leases["another"][0].partitions) == 0
        del table.leases["another"]
        now[0] += 15
    assert sorted(bus.accepted) == list(range(1, 13))


async def test_a_scan_waits_for_what_is_in_flight() -> None:
    table = Watched(*range(1, 13))
    bus = Noting(table)
    async with second_batch_sent(table, bus) as relay:
        relay._relay_loop._reader._scan_at = 0.0
        table.commit(0)
        table.gate.set()
        await until(lambda: 0 in bus.accepted)
        assert bus.accepted == [*range(1, 10), 0, 10, 11]
    assert sorted(bus.accepted) == list(range(13))


async def test_an_outage_waits_for_what_is_in_flight_and_reads_no_row_of_it_again() -> None:
    table = Watched(*range(1, 13))
    down = [BusUnavailableError("the bus", "it is down")]
    bus = Noting(table, lambda number: down[0] if down and number > 3 else None)
    async with second_batch_sent(table, bus) as relay:
        await turns()
        assert len(bus.batches) == 2
        table.gate.set()
        await until(lambda: relay.health().outage)
        down.clear()
    assert bus.accepted == list(range(1, 13))
    assert table.postponed == {}


async def test_shutdown_settles_both_batches_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_relay_loop, "_LEAVING", 0.0)  # this is for the lease, not for them
    table = Watched(*range(1, 13))
    bus = Noting(table)
    relay = OutboxRelay(table, bus, batch=3, on_step=table.on_step)
    await relay.startup()
    await until(lambda: table.removing.is_set() and len(bus.batches) == 2)
    stopping = asyncio.create_task(relay.shutdown(grace=DEADLINE))
    await turns()
    assert not stopping.done()
    table.gate.set()
    await stopping
    assert list(table.rows) == list(range(7, 13))
    assert table.wrong == []


async def test_past_the_grace_a_settlement_that_does_not_end_leaves_no_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = asyncio.all_tasks()
    table = Watched(*range(1, 13))
    bus = Noting(table)
    relay = OutboxRelay(table, bus, batch=3, on_step=table.on_step)
    await relay.startup()
    await until(lambda: table.removing.is_set() and len(bus.batches) == 2)
    monkeypatch.setattr(_relay_loop, "_LEAVING", 0.01)
    await relay.shutdown(grace=0)
    assert asyncio.all_tasks() == before
    assert list(table.rows) == list(range(1, 13))


@pytest.mark.parametrize("answer", [lambda _: None, lambda _: BusUnavailableError("it", "down")])
async def test_past_the_grace_a_read_that_does_not_end_leaves_no_task(
    answer: Callable[[int], BusError | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = asyncio.Event()

    class Hanging(Watched):
        async def due(
            self,
            lease: Lease,
            limit: int,
            *,
            after: int | None = None,
            max_bytes: int | None = None,
        ) -> Sequence[OutboxRow]:
            if after == 6:
                hangs.set()
                await asyncio.Event().wait()
            return await super().due(lease, limit, after=after, max_bytes=max_bytes)

    monkeypatch.setattr(_relay_loop, "_LEAVING", 0.01)
    before = asyncio.all_tasks()
    table = Hanging(*range(1, 13))
    bus = Noting(table, answer)
    relay = OutboxRelay(table, bus, batch=3, on_step=table.on_step)
    await relay.startup()
    async with asyncio.timeout(DEADLINE):
        await hangs.wait()
    stopping = asyncio.create_task(relay.shutdown(grace=0.01))
    await turns()
    table.gate.set()
    await stopping
    assert asyncio.all_tasks() == before
    assert table.wrong == []


async def test_a_database_that_fails_to_remove_holds_up_the_third_batch_and_is_reported_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = Watched(*range(1, 13))
    table.broken = {"remove": 1_000_000}
    bus = Noting(table)
    async with second_batch_sent(table, bus) as relay:
        table.gate.set()
        await until(lambda: table.broken["remove"] < 1_000_000 - 5)
        assert len(bus.batches) == 2
        table.broken.clear()
        async with asyncio.timeout(DEADLINE):
            await relay.drain()
    assert bus.accepted == list(range(1, 13))
    assert len(caplog.records) == 1


@pytest.mark.parametrize("bus_is_down", [False, True])
async def test_a_refusal_that_cannot_be_written_loses_nothing_of_the_batch_behind_it(
    bus_is_down: bool,
) -> None:
    table = Watched(*range(1, 13))
    table.broken = {"postpone": 1_000_000}
    refusing, down = [1], list[int]()

    def answer(number: int) -> BusError | None:
        if number in down:
            return BusUnavailableError("the bus", "it is down")
        return BusError("not this one") if number in refusing else None

    bus = Noting(table, answer)
    async with second_batch_sent(table, bus) as relay:
        down += [4, 5] if bus_is_down else []
        table.gate.set()
        await until(lambda: "LookupError" in (relay.health().outage or ""))
        refusing.clear()
        down.clear()
        async with asyncio.timeout(DEADLINE):
            await relay.drain()
        await until(lambda: relay.health().healthy)
    assert sorted(bus.accepted) == list(range(1, 13))


async def test_a_refusal_that_cannot_be_written_is_an_outage_and_not_tried_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_settling, "_TRIES", 1)
    monkeypatch.setattr(_outage, "_BACKOFF", RetryPolicy(delay=3_600.0, max_delay=3_600.0))
    table = Watched(1, 2)
    table.gate.set()
    table.broken = {"postpone": 1}
    bus = Noting(table, lambda number: BusError("not this one") if number == 1 else None)
    async with OutboxRelay(table, bus, on_step=table.on_step) as relay:
        await until(lambda: relay.health().outage == "LookupError: the database cannot postpone")
        await turns()
    assert bus.batches == [[1, 2]]
    assert list(table.rows) == [1]


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_no_row_is_sent_twice_and_nothing_is_done_in_flight(
    seed: int, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_reading, "_BUSY", 0.002)
    chance = random.Random(seed)
    rows = 200
    table = Watched(*range(2, 2 * rows + 2, 2))
    table.gate.set()
    refusals: Counter[int] = Counter()

    def answer(number: int) -> BusError | None:
        fate = chance.random()
        if fate < 0.02:
            return BusUnavailableError("the bus", "it is down")
        refusals[number] += fate < 0.05
        return BusError("not this one") if fate < 0.05 and refusals[number] < 4 else None

    late = list(range(1, 40, 2))

    def on_step(step: RelayStep) -> None:
        table.on_step(step)
        fate = chance.random()
        if fate < 0.05:
            now[0] += chance.choice([10, 31])
        elif fate < 0.1:
            table.broken[chance.choice(["remove", "read", "renew", "postpone"])] = 2
        elif fate < 0.15:
            table.now += 1.0
        elif fate < 0.25 and late:
            table.commit(late.pop())

    bus = Noting(table, answer)
    relay = OutboxRelay(table, bus, batch=7, poll_interval=0.005, on_step=on_step)
    async with relay, asyncio.timeout(DEADLINE):
        while table.rows:
            table.now += 1.0
            await relay.drain()
    assert table.wrong == []
    assert sorted(bus.accepted) == sorted({*range(2, 2 * rows + 2, 2), *range(1, 40, 2)} - {*late})
