"""Reading on, reading ahead, and scanning, without passing anything over for good."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence

import pytest

from events.integration.outbox import Lease, OutboxRow
from events.integration.outbox._reading import Reader
from tests.unit.integration_events.outbox_table import Table, row

LEASE = Lease("me", "t", frozenset(range(32)), 30.0, 30.0)


class Asked(Table):
    """Notes from where it is read; `slow` is how long a read takes by the loop's clock."""

    def __init__(self, *numbers: int) -> None:
        super().__init__(*numbers)
        self.leases["me"] = (LEASE, 30.0)
        self.asked: list[int | None] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def due(
        self, lease: Lease, limit: int, *, after: int | None = None, max_bytes: int | None = None
    ) -> Sequence[OutboxRow]:
        self.asked.append(after)
        await self.gate.wait()
        return await super().due(lease, limit, after=after, max_bytes=max_bytes)


class Time:
    """The event loop's clock, in a test's hands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now)


@pytest.fixture
async def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


def ids(rows: Sequence[OutboxRow]) -> list[int]:
    return [row.id for row in rows]


async def test_after_a_full_scan_it_reads_on(time: Time) -> None:
    table = Asked(*range(1, 8))
    reader = Reader(table, 3, scans_only=False)
    assert ids(await reader.next(LEASE)) == [1, 2, 3]
    full = reader.caught_up
    assert ids(await reader.next(LEASE)) == [4, 5, 6]
    assert ids(await reader.next(LEASE)) == [7]
    assert (full, reader.caught_up) == (False, True)
    assert table.asked == [None, 3, 6]


async def test_now_and_then_it_scans_and_finds_what_was_committed_late(time: Time) -> None:
    table = Asked(*range(10, 20))
    reader = Reader(table, 3, scans_only=False)
    await reader.next(LEASE)
    table.commit(5)
    assert ids(await reader.next(LEASE)) == [13, 14, 15]
    assert reader.scan_in is not None
    time.now += reader.scan_in
    assert 5 in ids(await reader.next(LEASE))


async def test_what_was_read_ahead_is_the_next_batch(time: Time) -> None:
    table = Asked(*range(1, 8))
    reader = Reader(table, 3, scans_only=False)
    await reader.next(LEASE)
    reader.read_ahead(LEASE)
    reader.read_ahead(LEASE)
    await asyncio.sleep(0)
    assert table.asked == [None, 3]
    assert ids(await reader.next(LEASE)) == [4, 5, 6]
    assert table.asked == [None, 3]


async def test_nothing_is_read_ahead_of_the_last_batch(time: Time) -> None:
    table = Asked(1, 2)
    reader = Reader(table, 3, scans_only=False)
    await reader.next(LEASE)
    reader.read_ahead(LEASE)
    await asyncio.sleep(0)
    assert table.asked == [None]


async def test_starting_over_forgets_what_was_read_ahead(time: Time) -> None:
    table = Asked(*range(1, 8))
    reader = Reader(table, 3, scans_only=False)
    await reader.next(LEASE)
    table.gate.clear()
    reader.read_ahead(LEASE)
    starting = asyncio.create_task(reader.start_over())
    await asyncio.sleep(0)
    assert not starting.done(), "the connection is in use"
    table.gate.set()
    await starting
    assert ids(await reader.next(LEASE)) == [1, 2, 3]


async def test_a_failure_ahead_comes_with_the_next_batch_or_is_forgotten(time: Time) -> None:
    table = Asked(*range(1, 8))
    reader = Reader(table, 3, scans_only=False)
    await reader.next(LEASE)
    table.broken = {"read": 1}
    reader.read_ahead(LEASE)
    with pytest.raises(LookupError):
        await reader.next(LEASE)
    assert ids(await reader.next(LEASE)) == [4, 5, 6]
    table.broken = {"read": 1}
    reader.read_ahead(LEASE)
    await reader.start_over()
    assert ids(await reader.next(LEASE)) == [1, 2, 3]


async def test_a_strict_order_scans_each_time(time: Time) -> None:
    table = Asked(*range(1, 8))
    reader = Reader(table, 3, scans_only=True)
    for _ in range(2):
        assert ids(await reader.next(LEASE)) == [1, 2, 3]
        reader.read_ahead(LEASE)
        await asyncio.sleep(0)
    assert table.asked == [None, None]
    assert reader.scan_in is None


async def test_what_was_postponed_does_not_move_the_place_to_read_on(time: Time) -> None:
    table = Asked(*range(1, 8))
    table.add(row(100))
    table.then = {100: 0.0}
    reader = Reader(table, 3, scans_only=False)
    assert ids(await reader.next(LEASE)) == [1, 2, 100]
    assert ids(await reader.next(LEASE)) == [3, 4, 5]


async def test_many_late_rows_are_scanned_until_all_are_seen(time: Time) -> None:
    table = Asked(*range(100, 109))
    reader = Reader(table, 3, scans_only=False)
    await reader.next(LEASE)
    await reader.next(LEASE)
    table.commit(*range(1, 8))
    time.now += 10
    seen: list[int] = []
    for _ in range(8):
        rows = await reader.next(LEASE)
        seen += ids(rows)
        await table.remove(ids(rows))
    assert set(range(1, 8)) < set(seen)


class Slow(Asked):
    """A scan takes two seconds."""

    def __init__(self, time: Time, *numbers: int) -> None:
        super().__init__(*numbers)
        self.time = time

    async def due(
        self, lease: Lease, limit: int, *, after: int | None = None, max_bytes: int | None = None
    ) -> Sequence[OutboxRow]:
        rows = await super().due(lease, limit, after=after, max_bytes=max_bytes)
        self.time.now += 2.0 if after is None else 0.0
        return rows


async def test_a_slow_scan_is_not_repeated_soon(time: Time) -> None:
    table = Slow(time, *range(1, 1_000))
    reader = Reader(table, 3, scans_only=False)
    for _ in range(100):
        await reader.next(LEASE)
        time.now += 0.1
    assert table.asked.count(None) == 1
    time.now += 20
    await reader.next(LEASE)
    assert table.asked[-1] is None


async def test_where_nothing_waits_each_read_is_a_scan(time: Time) -> None:
    """Else what was postponed, or comes late, would wait for as long as nothing else comes."""
    table = Slow(time)
    reader = Reader(table, 3, scans_only=False)
    for _ in range(3):
        assert await reader.next(LEASE) == []
        assert reader.caught_up
        assert reader.scan_in is None
    assert table.asked == [None] * 3


async def test_after_the_last_batch_a_quick_scan_is_repeated_at_once(time: Time) -> None:
    table = Asked(1, 2)
    reader = Reader(table, 3, scans_only=False)
    await reader.next(LEASE)
    assert reader.scan_in is None, "it was one"
    await reader.next(LEASE)
    assert table.asked == [None, None]


async def test_a_scan_that_finds_late_rows_alone_goes_on_where_it_was(time: Time) -> None:
    table = Slow(time, *range(10, 15))
    reader = Reader(table, 3, scans_only=False)
    assert ids(await reader.next(LEASE)) == [10, 11, 12]
    assert ids(await reader.next(LEASE)) == [13, 14]
    await table.remove(range(10, 15))
    table.commit(5)
    time.now += 20
    assert ids(await reader.next(LEASE)) == [5]
    table.commit(15)
    assert ids(await reader.next(LEASE)) == [15], "not 5 again, which may be on its way"
    assert table.asked == [None, 12, None, 14]


async def test_behind_a_batch_that_was_not_full_nothing_is_read_ahead(time: Time) -> None:
    table = Slow(time, 1, 2)
    reader = Reader(table, 3, scans_only=False)
    await reader.next(LEASE)
    reader.read_ahead(LEASE)
    await asyncio.sleep(0)
    assert not reader.has_read_ahead
    assert table.asked == [None]


async def test_starting_over_it_knows_of_nothing_more_and_of_no_scan_to_wait_for(
    time: Time,
) -> None:
    table = Asked(*range(1, 20))
    reader = Reader(table, 3, scans_only=False)
    await reader.next(LEASE)
    await reader.next(LEASE)
    before = reader.caught_up, reader.scan_in
    await reader.start_over()
    assert (before[0], before[1] is None) == (False, False)
    # There may be no partitions left: continuing at once would spin.
    assert (reader.caught_up, reader.scan_in) == (True, None)


async def test_a_failure_that_is_forgotten_is_no_task_that_nobody_asked(time: Time) -> None:
    said: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    table = Asked(*range(1, 8))
    reader = Reader(table, 3, scans_only=False)
    await reader.next(LEASE)
    table.broken = {"read": 1}
    reader.read_ahead(LEASE)
    await reader.start_over()
    gc.collect()
    assert said == []


async def test_a_batch_that_its_bytes_end_is_full_and_the_next_is_asked_for_fewer_rows() -> None:
    limits: list[int] = []

    class Noting(Asked):
        async def due(
            self,
            lease: Lease,
            limit: int,
            *,
            after: int | None = None,
            max_bytes: int | None = None,
        ) -> Sequence[OutboxRow]:
            limits.append(limit)
            return await super().due(lease, limit, after=after, max_bytes=max_bytes)

    table = Noting(*range(1, 10), 11)
    weight = len(table.rows[1].message.body)
    reader = Reader(table, 50, scans_only=True, max_bytes=3 * weight)
    seen = [(ids(await reader.next(LEASE)), reader.caught_up)]
    await table.remove(range(1, 10))
    seen.append((ids(await reader.next(LEASE)), reader.caught_up))
    assert seen == [([1, 2, 3], False), ([11], True)]
    for _ in range(3):
        await reader.next(LEASE)
    assert limits == [50, 8, 16, 32, 50]


async def test_a_scan_returns_no_more_than_a_batch_and_some_of_both_kinds() -> None:
    table = Asked(*range(1, 13))
    table.then = dict.fromkeys(range(7, 13), 0.0)
    reader = Reader(table, 3, scans_only=True)
    seen: list[list[int]] = []
    while found := ids(await reader.next(LEASE)):
        seen.append(found)
        await table.remove(found)
    assert seen == [[1, 7, 8], [2, 9, 10], [3, 11, 12], [4, 5, 6]]
