"""Recurring events, at the times of a cron expression. Needs the extra `recurring`.

An occurrence is a point in time, in UTC. The database stores for each recurrence up to which
occurrence events have been put. Of the occurrences since then, a relay puts all that are not late,
and of the late ones none or the newest. So if the clock is set back, no occurrence is put twice; if
it is set forward, the occurrences in between count as missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Struct

from events.errors import MissingExtraError
from events.integration.event import IntegrationEvent
from events.integration.topology import Topic

try:
    from cronsim import CronSim, CronSimError
except ImportError as error:
    raise MissingExtraError(__name__, "recurring") from error

Missed: TypeAlias = Literal["skip", "one"]

_FIELDS = 5
_LONGEST_NAME = 200  # characters; with the occurrence it is an event's id


class Due(Struct, frozen=True):
    """The due times of a recurrence: those to send, and the newest, sent or skipped."""

    until: datetime
    occurrences: tuple[datetime, ...]


class Recurring:
    """An event that is put once at each time of a cron expression.

    Pass it to every relay of the outbox, or every bus on the database, as `recurring=`: one of them
    puts each occurrence. The event's id is `name:occurrence`, with the occurrence in UTC, such as
    `"nightly:2026-11-30T02:00:00Z"`. The first occurrence is the next one after a relay first saw
    the name.

    When daylight saving time begins or ends, it behaves like Debian's cron. A time that does not
    exist, such as 02:30 in spring, becomes the first moment after the gap; of a time that exists
    twice, only the first counts. If the minutes or the hours begin with `*`, elapsed time counts
    instead: `*/15 * * * *` occurs every quarter of an hour, also in the repeated hour.

    Args:
        cron: Minute, hour, day of the month, month, day of the week, as in `"0 3 * * 1-5"`.
        name: Identifies the recurrence in the database. It must be unique, and must not change.
        topic: The topic of the events.
        event: Makes the event of an occurrence, which is passed in the time zone `tz`. It runs in
            the relay's process, may be called again if the database fails, and must not block. If
            it raises, the occurrence stays due.
        tz: The name of the time zone of the expression.
        missed: What happens to occurrences during which no relay was running: `"skip"` drops
            them, `"one"` puts the newest of them.
        grace: How late an occurrence may be put without counting as missed.
        key: The key of the events.
        source: The CloudEvents attribute `source`; by default that of the bus.
    """

    def __init__(  # noqa: PLR0913 - options, each with its default
        self,
        cron: str,
        *,
        name: str,
        topic: Topic,
        event: Callable[[datetime], IntegrationEvent],
        tz: str = "UTC",
        missed: Missed = "skip",
        grace: timedelta = timedelta(minutes=1),
        key: str | None = None,
        source: str | None = None,
    ) -> None:
        self.cron = cron
        self.name = _checked_name(name)
        self.topic = topic
        self.event = event
        self.missed = missed
        self.grace = grace
        self.key = key
        self.source = source
        given: object = topic
        if not isinstance(given, Topic):
            raise TypeError(f"{self!r}: topic must be a Topic, not {given!r}")
        if not callable(event):
            raise TypeError(
                f"{self!r}: event must be a function that makes the event of an occurrence, not "
                f"{event!r}: as in event=lambda occurrence: ReportDueV1(occurrence.date())"
            )
        if missed not in {"skip", "one"}:
            raise ValueError(f'{self!r}: missed must be "skip" or "one", not {missed!r}')
        if not isinstance(grace, timedelta) or grace < timedelta(0):
            raise ValueError(f"{self!r}: grace must be a timedelta of 0 or more, not {grace!r}")
        try:
            self._zone = UTC if tz == "UTC" else ZoneInfo(tz)
        except (ZoneInfoNotFoundError, ValueError, TypeError) as error:
            raise ValueError(
                f"{self!r}: time zone {tz!r} was not found: use its name in the IANA database, as "
                f'in tz="Europe/Berlin"; if the system has no time zones, install the package '
                f"tzdata"
            ) from error
        self._check_cron()

    def __repr__(self) -> str:
        return f"Recurring({self.cron!r}, name={self.name!r})"

    def _check_cron(self) -> None:
        cure = 'use minute, hour, day, month and day of the week, as in "0 3 * * 1-5"'
        if not isinstance(self.cron, str) or len(self.cron.split()) != _FIELDS:
            raise ValueError(f"{self!r} is not a cron expression of five fields: {cure}")
        try:
            CronSim(self.cron, datetime.now(UTC))
        except CronSimError as error:
            raise ValueError(f"{self!r}: {error}: {cure}") from error

    def id_of(self, occurrence: datetime) -> str:
        """Return the id of this occurrence's event."""
        return f"{self.name}:{occurrence.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"

    def make(self, occurrence: datetime) -> IntegrationEvent:
        """Return the event of this occurrence."""
        return self.event(occurrence.astimezone(self._zone))

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first occurrence after this, in UTC; None if there is none for 50 years."""
        return next(self._after(moment), None)

    def due(self, since: datetime, now: datetime) -> Due | None:
        """Return the occurrences to put after `since` and up to `now`, or None."""
        first = self.next_after(since)
        if first is None or first > now:
            return None
        # Backwards in steps that grow: there may have been a year of minutes.
        span = self.grace + timedelta(minutes=1)
        on_time = found = self._between(max(since, now - span), now)
        while not found:
            span *= 2
            found = self._between(max(since, now - span), now)
        newest = found[-1]
        put = tuple(each for each in on_time if now - each <= self.grace)
        if not put and self.missed == "one":
            put = (newest,)
        return Due(newest, put)

    def _between(self, since: datetime, until: datetime) -> list[datetime]:
        found: list[datetime] = []
        for each in self._after(since):
            if each > until:
                break
            found.append(each)
        return found

    def _after(self, moment: datetime) -> Iterator[datetime]:
        last = moment.astimezone(UTC)
        for each in CronSim(self.cron, moment.astimezone(self._zone)):
            # From the second of two hours with one name it begins with what was in the first.
            if (occurrence := each.astimezone(UTC)) > last:
                last = occurrence
                yield occurrence


def _checked_name(given: object) -> str:
    if not isinstance(given, str):
        raise TypeError(f"Recurring: name must be a string, not {given!r}")
    if not 1 <= len(given) <= _LONGEST_NAME or given != given.strip() or "\0" in given:
        raise ValueError(
            f"Recurring: name must have 1 to {_LONGEST_NAME} characters, without NUL and without "
            f"blanks around it, not {given!r}"
        )
    return given
