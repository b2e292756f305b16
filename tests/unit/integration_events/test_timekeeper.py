"""What a timekeeper puts when, by a clock that the test sets: forward, back, over the nights of the change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from events.integration import IntegrationEvent, Outbox, Topic
from events.integration.message import Message
from events.integration.outbox import NextSchedule
from events.integration.outbox.recurring import Recurring
from events.integration.outbox.timekeeper import Timekeeper
from events.testing import eventually
from tests.unit.integration_events.outbox_table import Numbered

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
POLL = 2.0


class Calendar:
    """A `SchedulingStore` in memory, whose clock the test sets."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now
        self.scheduled: list[datetime] = []
        self.locked = False
        self.put: list[str] = []
        self.until: dict[str, datetime] = {}
        self.looks = 0
        self.wake: Callable[[], None] = lambda: None
        self.error: Exception | None = None

    def scheduling(self) -> AbstractAsyncContextManager[Outbox]:
        raise NotImplementedError

    @contextmanager
    def listen_for_schedules(self, wake: Callable[[], None]) -> Generator[None]:
        self.wake = wake
        yield

    async def next_schedule(self) -> NextSchedule:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return NextSchedule(self.now, min(self.scheduled, default=None))

    async def release(self, limit: int) -> int:
        due = [] if self.locked else [each for each in self.scheduled if each <= self.now][:limit]
        for each in due:
            self.scheduled.remove(each)
        return len(due)

    async def recurred(self, name: str) -> datetime:
        return self.until.setdefault(name, self.now)

    async def recur(
        self, name: str, since: datetime, until: datetime, messages: Sequence[Message]
    ) -> bool:
        await asyncio.sleep(0)  # somebody else may be faster
        if self.until[name] != since:
            return False
        self.until[name] = until
        self.put += [message.id for message in messages]
        return True


def recurring(cron: str, *, tz: str = "Europe/Berlin", **options: Any) -> Recurring:
    def event(occurrence: datetime) -> IntegrationEvent:
        return Numbered(occurrence.day)

    given: dict[str, Any] = {"event": event, **options}
    return Recurring(cron, name="nightly", topic=Topic("recurring"), tz=tz, **given)


def timekeeper(
    store: Calendar, *recurring: Recurring, released: Callable[[], None] = lambda: None
) -> Timekeeper:
    return Timekeeper(
        "the relay",
        store,
        poll_interval=POLL,
        timeout=10.0,
        released=released,
        recurring=recurring,
    )


async def look_each_minute(
    keeper: Timekeeper, store: Calendar, since: datetime, until: datetime
) -> None:
    store.now = since
    while store.now <= until:
        await keeper.tick()
        store.now += MINUTE


# --- the nights of the change -----------------------------------------------------------------

SPRING = datetime(2026, 3, 29, 1, tzinfo=UTC)  # 02:00 in Berlin becomes 03:00
AUTUMN = datetime(2026, 10, 25, 1, tzinfo=UTC)  # 03:00 in Berlin becomes 02:00


@pytest.mark.parametrize(
    ("cron", "change", "expected"),
    [
        ("30 2 * * *", SPRING, ["2026-03-29T01:00:00Z"]),
        ("*/30 2 * * *", SPRING, []),
        (
            "30 * * * *",
            SPRING,
            [f"2026-03-2{'8' if h > 20 else '9'}T{h:02}:30:00Z" for h in (22, 23, 0, 1, 2, 3)],
        ),
        ("30 2 * * *", AUTUMN, ["2026-10-25T00:30:00Z"]),
        (
            "*/30 2 * * *",
            AUTUMN,
            [f"2026-10-25T{t}:00Z" for t in ("00:00", "00:30", "01:00", "01:30")],
        ),
        ("0 3 * * *", AUTUMN, ["2026-10-25T02:00:00Z"]),
    ],
)
async def test_over_the_change_of_daylight_saving_each_occurrence_is_put_once_on_time(
    cron: str, change: datetime, expected: list[str]
) -> None:
    store = Calendar(change - 3 * HOUR)
    keeper = timekeeper(store, recurring(cron))
    await look_each_minute(keeper, store, change - 3 * HOUR, change + 3 * HOUR)
    assert store.put == [f"nightly:{each}" for each in expected]


# --- a clock that is set ----------------------------------------------------------------------


async def test_a_clock_that_is_set_back_repeats_nothing_and_goes_on_where_it_was(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Calendar()
    first = timekeeper(store, recurring("*/10 * * * *"))
    await look_each_minute(first, store, NOON, NOON + HOUR)
    before = list(store.put)
    assert len(before) == 6
    second = timekeeper(store, recurring("*/10 * * * *"))  # as after a restart
    for keeper in (first, second):
        await look_each_minute(keeper, store, NOON - HOUR, NOON + HOUR)
        assert store.put == before
    assert [r.message for r in caplog.records if "it was set back" in r.message] != []
    await look_each_minute(first, store, NOON + HOUR, NOON + HOUR + 10 * MINUTE)
    assert store.put == [*before, "nightly:2026-11-27T13:10:00Z"]


@pytest.mark.parametrize(
    ("missed", "expected"), [("skip", []), ("one", ["nightly:2026-11-27T16:50:00Z"])]
)
async def test_a_clock_that_is_set_forward_brings_what_lies_between_as_missed(
    caplog: pytest.LogCaptureFixture, missed: str, expected: list[str]
) -> None:
    store = Calendar()
    keeper = timekeeper(store, recurring("*/10 * * * *", missed=missed))
    await keeper.tick()
    store.now = NOON + 4 * HOUR + 55 * MINUTE
    await keeper.tick()
    assert store.put == expected
    assert ("skipped" in caplog.text) == (not expected)
    store.now += 5 * MINUTE
    await keeper.tick()
    assert store.put == [*expected, "nightly:2026-11-27T17:00:00Z"]


async def test_any_number_of_timekeepers_put_an_occurrence_once() -> None:
    store = Calendar()
    keepers = [timekeeper(store, recurring("* * * * *")) for _ in range(4)]
    for _ in range(30):
        await asyncio.gather(*(keeper.tick() for keeper in keepers))
        store.now += MINUTE
    assert len(store.put) == len(set(store.put)) == 29


async def test_an_occurrence_whose_event_cannot_be_made_stays_due(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = True

    def event(occurrence: datetime) -> IntegrationEvent:
        if broken:
            raise ConnectionError("no rates today")
        return Numbered(occurrence.day)

    store = Calendar()
    keeper = timekeeper(store, recurring("* * * * *", event=event, grace=HOUR))
    await keeper.tick()
    store.now += MINUTE
    for _ in range(3):
        assert await keeper.tick() == POLL
    assert caplog.text.count("cannot make the event of Recurring('* * * * *', name='nightly')") == 1
    broken = False
    await keeper.tick()
    assert store.put == ["nightly:2026-11-27T12:01:00Z"]


# --- when it looks ------------------------------------------------------------------------------


async def test_it_looks_again_when_the_next_is_due_and_now_and_then() -> None:
    store = Calendar()
    keeper = timekeeper(store)
    assert await keeper.tick() == 5 * POLL
    store.scheduled = [NOON + timedelta(seconds=7), NOON + HOUR]
    assert await keeper.tick() == 7
    store.now += timedelta(seconds=7)
    assert await keeper.tick() < 1  # the next may be due by now
    assert store.scheduled == [NOON + HOUR]
    assert await keeper.tick() == 5 * POLL
    each_minute = timekeeper(store, recurring("* * * * *"))
    store.now = NOON + timedelta(seconds=55)
    assert await each_minute.tick() == 5


async def test_it_moves_what_is_due_in_transactions_of_500_and_tells_of_each() -> None:
    store = Calendar()
    store.scheduled = [NOON - HOUR] * 1_200
    moves: list[int] = []
    await timekeeper(store, released=lambda: moves.append(len(store.scheduled))).tick()
    assert moves == [700, 200, 0]


async def test_what_somebody_has_locked_is_looked_at_again_after_a_poll() -> None:
    store = Calendar()
    store.scheduled, store.locked = [NOON - HOUR], True
    assert await timekeeper(store).tick() == POLL


async def test_a_commit_in_this_process_wakes_it(caplog: pytest.LogCaptureFixture) -> None:
    store = Calendar()
    keeping = asyncio.create_task(timekeeper(store).run(asyncio.Lock()))
    await eventually(lambda: store.looks == 1)
    store.scheduled = [NOON]
    store.wake()
    await eventually(lambda: not store.scheduled)
    store.error = ConnectionError("the database is away")
    store.wake()
    looks = store.looks
    await eventually(lambda: store.looks > looks + 1)  # by itself
    store.error = None
    await eventually(lambda: "releases scheduled events again" in caplog.text)
    assert caplog.text.count("cannot release scheduled events and will retry") == 1
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "events.integration")
