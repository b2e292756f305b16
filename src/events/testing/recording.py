"""Test doubles that record sent events, for unit tests of code that sends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from dataclasses import replace as replace_in
from datetime import datetime
from itertools import count
from typing import Any, TypeVar

from msgspec.structs import replace as replace_fields

from events.errors import InvalidTopologyError, ScheduleIdTakenError
from events.integration.bus import IntegrationEventBus
from events.integration.event import IntegrationEvent
from events.integration.limits import check_body_size
from events.integration.message import Message
from events.integration.outbox import ScheduledEvent
from events.integration.outbox.accepting import (
    check_schedule,
    check_schedule_id,
    check_storable,
    in_utc,
)
from events.integration.paging import check_limit
from events.integration.serialization import Serializer
from events.integration.topology import IntegrationEventBusRegistration, Topic

E = TypeVar("E", bound=IntegrationEvent)


@dataclass(frozen=True)
class RecordedEvent:
    """One event as it was sent, or put into an outbox."""

    topic: Topic
    event: IntegrationEvent
    key: str | None = None
    headers: Mapping[str, str] | None = None
    available_at: datetime | None = None
    schedule_id: str | None = None


class _Recorder:
    def __init__(self, max_body_size: int) -> None:
        self.sent: list[RecordedEvent] = []
        self._serializer = Serializer("/events/testing")
        self._max_body_size = max_body_size

    def events_of(self, event_class: type[E], topic: Topic | None = None) -> list[E]:
        """Return the events of a class and its subclasses, in order; of one topic if given."""
        return [
            recorded.event
            for recorded in self.sent
            if isinstance(recorded.event, event_class) and topic in (None, recorded.topic)
        ]

    def clear(self) -> None:
        """Forget what was sent."""
        self.sent.clear()

    def _record(self, recorded: RecordedEvent, id: str | None = None) -> str:
        message = self._encode(recorded, id)
        self.sent.append(recorded)
        return message.id

    def _encode(self, recorded: RecordedEvent, id: str | None = None) -> Message:
        # A double that takes what the real one refuses hides the bug that it is there to find.
        topic: object = recorded.topic
        if not isinstance(topic, Topic):
            raise InvalidTopologyError(repr(topic), "not a Topic; write Topic('users')")
        message = self._serializer.encode(
            recorded.topic.name, recorded.event, key=recorded.key, headers=recorded.headers, id=id
        )
        check_body_size(message, self._max_body_size)
        return message


class RecordingIntegrationEventBus(_Recorder, IntegrationEventBus):
    """A bus that records events in `sent`, and delivers none.

    It accepts and refuses the same arguments as `TransportIntegrationEventBus.send` and
    `send_many`, with the same `max_body_size`, and need not be started.

        >>> import asyncio
        >>> from events.integration import IntegrationEvent, Topic
        >>> @dataclass
        ... class UserRegisteredV1(IntegrationEvent):
        ...     type = "doctest.user.registered"
        ...     version = 1
        ...     email: str
        >>> bus = RecordingIntegrationEventBus()
        >>> asyncio.run(bus.send(Topic("users"), UserRegisteredV1("a@example.com"), key="7"))
        >>> [user.email for user in bus.events_of(UserRegisteredV1)]
        ['a@example.com']
        >>> bus.sent[0].topic, bus.sent[0].key
        (Topic(name='users'), '7')
    """

    def __init__(
        self,
        registrations: Iterable[IntegrationEventBusRegistration] | None = None,
        *,
        max_body_size: int = 1 << 20,
    ) -> None:
        _Recorder.__init__(self, max_body_size)
        IntegrationEventBus.__init__(self, registrations)

    async def send(
        self,
        topic: Topic,
        event: IntegrationEvent,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,
    ) -> None:
        """Record the event."""
        self._record(RecordedEvent(topic, event, key, headers), id)

    async def send_many(
        self,
        topic: Topic,
        events: Iterable[IntegrationEvent],
        *,
        key: Callable[[Any], str | None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Record the events in order, or none if one of them is refused."""
        given = [RecordedEvent(topic, each, key and key(each), headers) for each in events]
        for recorded in given:
            self._encode(recorded)
        self.sent += given


class RecordingOutbox(_Recorder):
    """An `Outbox` that records events in `sent`, without transactions.

    It accepts and refuses the same arguments as `SQLAlchemyOutbox` with the same `max_body_size`.
    An event with a `schedule_id` stays in `sent` unless it is cancelled or replaced. No event
    becomes due.
    """

    def __init__(self, *, max_body_size: int = 1 << 20) -> None:
        super().__init__(max_body_size)
        self._scheduled: dict[str, ScheduledEvent] = {}
        self._numbers = count(1)

    async def put(
        self,
        topic: Topic,
        event: IntegrationEvent,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        available_at: datetime | None = None,
        schedule_id: str | None = None,
        replace: bool = False,
    ) -> str:
        """Record the event, and return an id for it."""
        check_schedule(schedule_id, available_at, replace=replace)
        if available_at is not None:
            in_utc("available_at", available_at)
        recorded = RecordedEvent(topic, event, key, headers, available_at, schedule_id)
        if schedule_id is None or available_at is None:  # an id without a time was refused above
            return self._record(recorded)
        before = self._scheduled.get(schedule_id)
        if before is not None and not replace:
            raise ScheduleIdTakenError(schedule_id)
        event_id = self._record(recorded)
        if before is not None:
            self._forget(schedule_id, but=recorded)
        self._scheduled[schedule_id] = ScheduledEvent(
            id=next(self._numbers) if before is None else before.id,
            schedule_id=schedule_id,
            event_id=event_id,
            topic=topic.name,
            type=type(event).type,
            key=key,
            available_at=available_at,
        )
        return event_id

    async def cancel(self, schedule_id: str) -> bool:
        """Cancel it, also in `sent`; return whether it existed."""
        check_schedule_id(schedule_id)
        if self._scheduled.pop(schedule_id, None) is None:
            return False
        self._forget(schedule_id)
        return True

    async def reschedule(self, schedule_id: str, when: datetime) -> bool:
        """Change its time, also in `sent`; return whether it existed."""
        check_schedule_id(schedule_id)
        in_utc("when", when)
        found = self._scheduled.get(schedule_id)
        if found is None:
            return False
        self._scheduled[schedule_id] = replace_fields(found, available_at=when)
        self.sent[:] = [
            replace_in(each, available_at=when) if each.schedule_id == schedule_id else each
            for each in self.sent
        ]
        return True

    async def scheduled(
        self,
        *,
        topic: Topic | str | None = None,
        prefix: str | None = None,
        before: datetime | None = None,
        limit: int = 100,
        after: int | None = None,
    ) -> list[ScheduledEvent]:
        """Return what was put with a `schedule_id` and was not cancelled."""
        check_limit("scheduled events", limit)
        if before is not None:
            in_utc("before", before)
        name = topic.name if isinstance(topic, Topic) else topic
        found = [
            each
            for each in sorted(self._scheduled.values(), key=lambda each: each.id)
            if (after is None or each.id > after)
            and (name is None or each.topic == name)
            and each.schedule_id.startswith(prefix or "")
            and (before is None or each.available_at < before)
        ]
        return found[:limit]

    def clear(self) -> None:
        """Forget what was sent and scheduled."""
        super().clear()
        self._scheduled.clear()

    def _encode(self, recorded: RecordedEvent, id: str | None = None) -> Message:
        message = super()._encode(recorded, id)
        check_storable(message)
        return message

    def _forget(self, schedule_id: str, but: RecordedEvent | None = None) -> None:
        self.sent[:] = [
            each for each in self.sent if each.schedule_id != schedule_id or each is but
        ]
