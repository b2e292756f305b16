"""Doubles that keep what is sent, for unit tests of code that sends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from events.errors import InvalidTopologyError
from events.integration.bus import IntegrationEventBus
from events.integration.event import IntegrationEvent
from events.integration.serialization import Serializer
from events.integration.topology import IntegrationEventBusRegistration, Topic

__all__ = ["RecordedEvent", "RecordingIntegrationEventBus", "RecordingOutbox"]

E = TypeVar("E", bound=IntegrationEvent)


@dataclass(frozen=True)
class RecordedEvent:
    """One event as it was sent, or put into an outbox."""

    topic: Topic
    event: IntegrationEvent
    key: str | None = None
    headers: Mapping[str, str] | None = None
    available_at: datetime | None = None


class _Recorder:
    def __init__(self) -> None:
        self.sent: list[RecordedEvent] = []
        self._serializer = Serializer("/events/testing")

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

    def _record(self, recorded: RecordedEvent) -> str:
        # A double that takes what the real one refuses hides the bug that it is there to find.
        topic: object = recorded.topic
        if not isinstance(topic, Topic):
            raise InvalidTopologyError(repr(topic), "not a Topic; write Topic('users')")
        message = self._serializer.encode(
            recorded.topic.name, recorded.event, key=recorded.key, headers=recorded.headers
        )
        self.sent.append(recorded)
        return message.id


class RecordingIntegrationEventBus(_Recorder, IntegrationEventBus):
    """Keep what is sent in `sent`, and deliver it to nobody.

    It takes what `TransportIntegrationEventBus.send` and `send_many` take, refuses what
    they refuse, and need not be started.

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
        self, registrations: Iterable[IntegrationEventBusRegistration] | None = None
    ) -> None:
        _Recorder.__init__(self)
        IntegrationEventBus.__init__(self, registrations)

    async def send(
        self,
        topic: Topic,
        event: IntegrationEvent,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,  # noqa: ARG002 - as a real bus takes it
    ) -> None:
        """Record the event."""
        self._record(RecordedEvent(topic, event, key, headers))

    async def send_many(
        self,
        topic: Topic,
        events: Iterable[IntegrationEvent],
        *,
        key: Callable[[Any], str | None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Record the events in order."""
        for event in events:
            await self.send(topic, event, key=key and key(event), headers=headers)


class RecordingOutbox(_Recorder):
    """An `Outbox` that keeps what is put into it in `sent`. It knows nothing of transactions."""

    async def put(
        self,
        topic: Topic,
        event: IntegrationEvent,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        available_at: datetime | None = None,
    ) -> str:
        """Record the event, and return an id for it."""
        return self._record(RecordedEvent(topic, event, key, headers, available_at))
