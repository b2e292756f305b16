"""Contracts of recurring events, on every database.

A test file gives the fixtures of `SchedulesContract`. Needs the extra `recurring`.
"""
# ruff: noqa: D102 - a test's name is its documentation

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from events.integration.outbox.recurring import Missed, Recurring
from events.testing.contracts._scheduling import SchedulingPlace, SchedulingSuite, sent
from events.testing.contracts.outbox import DEADLINE, TOPIC, Counted, ForwardedBus

__all__ = ["RecurringContract", "every_minute"]

NAME = "each-minute"
BACK = timedelta(minutes=20)


def every_minute(*, grace: timedelta = 2 * BACK, missed: Missed = "skip") -> Recurring:
    """Return what has come twenty times since the suite has set it back by so many minutes."""
    return Recurring(
        "* * * * *",
        name=NAME,
        topic=TOPIC,
        event=lambda occurrence: Counted(int(occurrence.timestamp()) // 60),
        tz="Europe/Berlin",
        missed=missed,
        grace=grace,
        key="k",
    )


class RecurringContract(SchedulingSuite):
    """Yield the fixture `database`, or `place`."""

    async def test_begins_with_the_next_after_it_was_first_seen(
        self, place: SchedulingPlace
    ) -> None:
        daily = Recurring(
            "0 0 1 1 *", name="new year", topic=TOPIC, event=lambda each: Counted(each.year)
        )
        bus = await sent(place, daily)
        store = place.store
        assert bus.messages == []
        begun = await store.recurred("new year")
        assert timedelta(0) <= (await store.next_schedule()).now - begun < timedelta(minutes=1)

    async def test_any_number_of_relays_put_each_occurrence_once(
        self, place: SchedulingPlace
    ) -> None:
        since = await _set_back(place)
        buses = [ForwardedBus() for _ in range(3)]

        async def relay(bus: ForwardedBus) -> None:
            async with place.sending(bus, recurring=[every_minute()]) as sender:
                await sender.drain()

        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*map(relay, buses))
        ids = [message.id for bus in buses for message in bus.messages]
        assert sorted([*ids, *await place.due()]) == await _expected(place, since)
        for bus in buses:
            for message in bus.messages:
                assert (message.topic, message.key) == (TOPIC.name, "k")
                assert message.headers["ce-id"] == message.id
        numbers = [number for bus in buses for number in bus.numbers]
        assert sorted(every_minute().id_of(_minute(number)) for number in numbers) == sorted(ids)

    async def test_what_was_put_is_not_put_again_by_the_next_relay(
        self, place: SchedulingPlace
    ) -> None:
        since = await _set_back(place)
        first = await sent(place, every_minute())
        second = await sent(place, every_minute())
        ids = [message.id for message in (*first.messages, *second.messages)]
        assert sorted([*ids, *await place.due()]) == await _expected(place, since)

    @pytest.mark.parametrize(("missed", "count"), [("skip", 0), ("one", 1)])
    async def test_of_what_was_missed_it_puts_none_or_the_newest(
        self, place: SchedulingPlace, missed: Missed, count: int
    ) -> None:
        store = place.store
        since = await _set_back(place)
        # At most one is due each minute, so that a grace of nothing leaves all too late.
        each = every_minute(grace=timedelta(0), missed=missed)
        began = (await store.next_schedule()).now
        bus = await sent(place, each)
        until = await store.recurred(NAME)
        assert until > since
        newest = [until]
        while newest[0] > began:  # a minute that begins meanwhile may bring one more
            newest.insert(0, newest[0] - timedelta(minutes=1))
        ids = [message.id for message in bus.messages]
        assert min(len(ids), 1) == count
        assert ids == [each.id_of(at) for at in newest[len(newest) - len(ids) :]]

    @pytest.mark.parametrize("step", ["released", "selected", "sending", "sent", "removed"])
    async def test_a_killed_relay_loses_no_occurrence_and_puts_none_twice(
        self, place: SchedulingPlace, tmp_path: Path, step: str
    ) -> None:
        since = await _set_back(place)
        journal = tmp_path / "accepted"
        async with place.process(journal, f"recurring:{step}") as process:
            async with asyncio.timeout(DEADLINE):
                assert await process.wait() == -signal.SIGKILL
        before = journal.read_text().splitlines() if journal.exists() else []
        put = await place.due()
        assert len(put) == len(set(put))
        bus = await sent(place, every_minute())
        times = Counter([*before, *(message.id for message in bus.messages)])
        assert sorted({*times, *await place.due()}) == await _expected(place, since)
        assert all(times[each] == 1 for each in times if each not in before)

    async def test_of_two_that_put_the_same_one_is_refused(self, place: SchedulingPlace) -> None:
        store = place.store
        since = await store.recurred(NAME)
        until = since + timedelta(minutes=1)
        async with asyncio.timeout(DEADLINE):
            both = await asyncio.gather(
                store.recur(NAME, since, until, []), store.recur(NAME, since, until, [])
            )
        assert sorted(both) == [False, True]
        assert await store.recurred(NAME) == until


def _minute(number: int) -> datetime:
    return datetime.fromtimestamp(60 * number, UTC)


async def _set_back(place: SchedulingPlace) -> datetime:
    """Have it be as if nothing was put for a while, and return since when."""
    store = place.store
    now = await store.recurred(NAME)
    assert await store.recur(NAME, now, now - BACK, [])
    return now - BACK


async def _expected(place: SchedulingPlace, since: datetime) -> list[str]:
    """Return the ids of all occurrences up to where it has come.

    The last may be due and not sent, when a minute began while its sender was stopping.
    """
    until = await place.store.recurred(NAME)
    each, ids = every_minute(), list[str]()
    at = each.next_after(since)
    while at is not None and at <= until:
        ids.append(each.id_of(at))
        at = each.next_after(at)
    assert len(ids) >= BACK // timedelta(minutes=1)
    return ids
