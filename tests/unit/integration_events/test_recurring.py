"""When an event recurs: against the time zones of the standard library, minute by minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.integration import Topic
from events.integration.event import IntegrationEvent
from events.integration.outbox.recurring import Recurring
from tests.unit.integration_events.outbox_table import Numbered

TOPIC = Topic("recurring")
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
# In the middle of the night, at midnight, and on the southern half of the earth.
ZONES = ["Europe/Berlin", "America/New_York", "Europe/London", "America/Santiago", "Asia/Beirut"]


def recurring(cron: str, tz: str = "UTC", **options: Any) -> Recurring:
    def event(occurrence: datetime) -> IntegrationEvent:
        return Numbered(occurrence.day)

    return Recurring(cron, name="nightly", topic=TOPIC, event=event, tz=tz, **options)


def changes(zone: str) -> list[datetime]:
    """Return the hours of one year after which the zone's clocks were changed."""
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    hours = [begin + n * HOUR for n in range(365 * 24)]
    offset = ZoneInfo(zone).utcoffset
    local = [offset(each.astimezone(ZoneInfo(zone))) for each in hours]
    return [hours[n] for n in range(1, len(hours)) if local[n] != local[n - 1]]


@st.composite
def fields(draw: st.DrawFn, limit: int) -> tuple[str, frozenset[int]]:
    """Give a field of a cron expression, and the values that it stands for."""
    kind = draw(st.sampled_from(["*", "step", "list", "range"]))
    if kind == "*":
        return "*", frozenset(range(limit))
    if kind == "step":
        step = draw(st.integers(1, limit - 1))
        return f"*/{step}", frozenset(range(0, limit, step))
    values = sorted(draw(st.sets(st.integers(0, limit - 1), min_size=1, max_size=3)))
    if kind == "range":
        return f"{values[0]}-{values[-1]}", frozenset(range(values[0], values[-1] + 1))
    return ",".join(map(str, values)), frozenset(values)


def by_minutes(
    zone: ZoneInfo,
    minutes: tuple[str, frozenset[int]],
    hours: tuple[str, frozenset[int]],
    since: datetime,
    until: datetime,
) -> list[datetime]:
    """Return the occurrences in the slowest way there is, each once."""
    found = set[datetime]()
    begin = since.replace(second=0)
    if minutes[0][0] == "*" or hours[0][0] == "*":  # by elapsed time
        moment = begin
        while moment <= until:
            local = moment.astimezone(zone)
            if local.minute in minutes[1] and local.hour in hours[1]:
                found.add(moment)
            moment += MINUTE
    else:  # by what the clock on the wall says, had it not been changed
        wall = (begin - 3 * HOUR).astimezone(zone).replace(tzinfo=None)
        while wall <= (until + 3 * HOUR).astimezone(zone).replace(tzinfo=None):
            if wall.minute in minutes[1] and wall.hour in hours[1]:
                there = wall
                while True:
                    moment = there.replace(tzinfo=zone).astimezone(UTC)
                    if moment.astimezone(zone).replace(tzinfo=None) == there:
                        break
                    there += MINUTE  # in the gap
                found.add(moment)
            wall += MINUTE
    return sorted(each for each in found if since < each <= until)


@settings(max_examples=100, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    which=st.integers(0, 1),
    minutes=fields(60),
    hours=fields(24),
    offset=st.integers(-8 * 60, 8 * 60),
    seconds=st.integers(0, 59),
)
def test_at_both_changes_of_the_clocks_it_comes_as_documented(
    zone: str,
    which: int,
    minutes: tuple[str, frozenset[int]],
    hours: tuple[str, frozenset[int]],
    offset: int,
    seconds: int,
) -> None:
    start = changes(zone)[which] + offset * MINUTE + timedelta(seconds=seconds)
    end = start + 12 * HOUR
    expected = by_minutes(ZoneInfo(zone), minutes, hours, start, end)
    each = recurring(f"{minutes[0]} {hours[0]} * * *", zone)
    found: list[datetime] = []
    at = each.next_after(start)
    while at is not None and at <= end:
        found.append(at)
        at = each.next_after(at)
    assert found == expected


@settings(max_examples=100, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    which=st.integers(0, 1),
    minutes=fields(60),
    hours=fields(24),
    looks=st.lists(st.integers(-3 * 60, 3 * 60), min_size=1, max_size=30),
    missed=st.sampled_from(["skip", "one"]),
)
def test_whatever_clock_the_looks_go_by_none_is_put_twice_and_none_on_time_is_lost(
    zone: str,
    which: int,
    minutes: tuple[str, frozenset[int]],
    hours: tuple[str, frozenset[int]],
    looks: list[int],
    missed: str,
) -> None:
    """The looks come in any order: a clock that is set forward and back, time and again."""
    change = changes(zone)[which]
    grace = 5 * MINUTE
    each = recurring(f"{minutes[0]} {hours[0]} * * *", zone, missed=missed, grace=grace)
    since = start = change - 3 * HOUR
    put: list[datetime] = []
    for look in looks:
        now = change + look * MINUTE
        due = each.due(since, now)
        if due is None:
            continue
        passed = by_minutes(ZoneInfo(zone), minutes, hours, since, now)
        on_time = [moment for moment in passed if now - moment <= grace]
        assert due.until == passed[-1]
        assert list(due.occurrences) == on_time or (not on_time and missed == "one")
        if missed == "one" and not on_time:
            assert due.occurrences == (passed[-1],)
        put += due.occurrences
        since = due.until
    assert put == sorted(set(put)), "one twice, or in another order"
    assert all(moment > start for moment in put)
    assert len({each.id_of(moment) for moment in put}) == len(put)


@pytest.mark.parametrize(
    ("cron", "since", "local"),
    [
        # 02:30 does not exist: it comes when the gap ends.
        ("30 2 * * *", datetime(2026, 3, 28, 12, tzinfo=UTC), "2026-03-29T03:00:00+02:00"),
        # 02:30 exists twice: the first counts, and the second is nothing.
        ("30 2 * * *", datetime(2026, 10, 24, 12, tzinfo=UTC), "2026-10-25T02:30:00+02:00"),
        ("30 2 * * *", datetime(2026, 10, 25, 0, 30, tzinfo=UTC), "2026-10-26T02:30:00+01:00"),
        # By elapsed time it is there as often as the clock says it.
        ("*/30 2 * * *", datetime(2026, 3, 28, 12, tzinfo=UTC), "2026-03-30T02:00:00+02:00"),
        ("*/30 2 * * *", datetime(2026, 10, 25, 0, 30, tzinfo=UTC), "2026-10-25T02:00:00+01:00"),
        ("0 3 * * 1-5", datetime(2026, 11, 27, 12, tzinfo=UTC), "2026-11-30T03:00:00+01:00"),
    ],
)
def test_what_the_how_to_says_of_berlin(cron: str, since: datetime, local: str) -> None:
    at = recurring(cron, "Europe/Berlin").next_after(since)
    assert at == datetime.fromisoformat(local)


def test_a_year_that_nobody_was_at_work_is_one_event_or_none() -> None:
    since, now = datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC)
    for missed, put in (("skip", ()), ("one", (datetime(2025, 12, 31, 3, tzinfo=UTC),))):
        due = recurring("0 3 * * *", missed=missed).due(since, now)
        assert due is not None
        assert due.until == datetime(2025, 12, 31, 3, tzinfo=UTC)
        assert due.occurrences == put


def test_the_id_names_the_moment_whatever_its_zone() -> None:
    summer = datetime.fromisoformat("2026-10-25T02:30:00+02:00")
    assert recurring("30 2 * * *").id_of(summer) == "nightly:2026-10-25T00:30:00Z"
    assert recurring("30 2 * * *").id_of(summer + HOUR) == "nightly:2026-10-25T01:30:00Z"


def test_one_that_never_comes_is_never_due() -> None:
    never = recurring("0 0 */31 2 *")
    assert never.due(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)) is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"cron": "0 3 * *"}, "five fields"),
        ({"cron": "0 0 3 * * 1"}, "five fields"),
        ({"cron": "61 3 * * *"}, "Bad minute"),
        ({"tz": "Europe/Atlantis"}, "time zone 'Europe/Atlantis' was not found"),
        ({"missed": "all"}, "missed must be"),
        ({"grace": timedelta(seconds=-1)}, "grace"),
        ({"name": ""}, "name must have"),
        ({"name": " x"}, "name must have"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], reason: str) -> None:
    given: dict[str, Any] = {
        "cron": "0 3 * * *",
        "name": "nightly",
        "topic": TOPIC,
        "event": lambda _: Numbered(1),
    }
    with pytest.raises(ValueError, match=reason):
        Recurring(**(given | options))


def test_topic_and_event_are_checked() -> None:
    with pytest.raises(TypeError, match="topic must be a Topic"):
        Recurring("0 3 * * *", name="n", topic="t", event=lambda _: Numbered(1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="event must be a function"):
        Recurring("0 3 * * *", name="n", topic=TOPIC, event=Numbered(1))  # type: ignore[arg-type]
