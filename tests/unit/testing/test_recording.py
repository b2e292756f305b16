from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from events.errors import (
    EventEncodeError,
    EventsError,
    InvalidTopologyError,
    MessageTooLargeError,
)
from events.integration import (
    EventHandlerConsumer,
    IntegrationEvent,
    IntegrationEventBus,
    IntegrationEventBusRegistration,
    Topic,
)
from events.integration.outbox import Outbox
from events.sqlalchemy import SQLAlchemyOutbox
from events.testing import RecordedEvent, RecordingIntegrationEventBus, RecordingOutbox

Call = Callable[[Outbox], Awaitable[object]]
USERS, ORDERS = Topic("users"), Topic("orders")


@dataclass
class Joined(IntegrationEvent):
    type = "tests.recording.joined"
    version = 1
    name: str


@dataclass
class Odd(IntegrationEvent):
    type = "tests.recording.odd"
    version = 1
    value: Any


async def test_a_bus_keeps_what_is_sent() -> None:
    bus = RecordingIntegrationEventBus()
    await bus.send(USERS, Joined("ada"), key="1", headers={"x-tenant": "a"})
    await bus.send_many(USERS, [Joined("bob"), Joined("cyd")], key=lambda event: event.name)
    assert bus.sent == [
        RecordedEvent(USERS, Joined("ada"), "1", {"x-tenant": "a"}),
        RecordedEvent(USERS, Joined("bob"), "bob"),
        RecordedEvent(USERS, Joined("cyd"), "cyd"),
    ]
    bus.clear()
    assert bus.sent == []


async def test_events_of_a_class_and_topic() -> None:
    bus = RecordingIntegrationEventBus()
    await bus.send(USERS, Joined("ada"))
    await bus.send(ORDERS, Joined("bob"))
    await bus.send(USERS, Odd(1))
    assert bus.events_of(Joined) == [Joined("ada"), Joined("bob")]
    assert bus.events_of(Joined, ORDERS) == [Joined("bob")]
    assert bus.events_of(IntegrationEvent, USERS) == [Joined("ada"), Odd(1)]


async def test_what_a_real_bus_refuses_is_refused() -> None:
    bus = RecordingIntegrationEventBus()
    with pytest.raises(EventEncodeError):
        await bus.send(USERS, Odd(object()))
    with pytest.raises(EventEncodeError):
        await bus.send(USERS, Joined("ada"), headers={"ce-id": "mine"})
    with pytest.raises(EventEncodeError):
        await bus.send(USERS, Joined("ada"), id="")
    with pytest.raises(EventEncodeError):  # of many, none is sent then
        await bus.send_many(USERS, [Joined("ada"), Odd(object())])
    assert bus.sent == []


async def test_what_is_no_topic_is_refused() -> None:
    topic: Any = "users"
    for send in (RecordingIntegrationEventBus().send, RecordingOutbox().put):
        with pytest.raises(InvalidTopologyError, match="'users': not a Topic; write Topic"):
            await send(topic, Joined("ada"))


async def test_what_no_consumer_could_read_is_refused() -> None:
    nameless = Joined(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus, outbox = RecordingIntegrationEventBus(), RecordingOutbox()
    for send in (bus.send, outbox.put):
        with pytest.raises(EventEncodeError, match=r"Joined: \$.name: Expected `str`, got `null`"):
            await send(USERS, nameless)
    assert bus.sent == outbox.sent == []


async def test_it_is_a_bus_that_delivers_to_nobody() -> None:
    async def fail(event: Joined) -> None:
        raise AssertionError("it was delivered")

    consumer = EventHandlerConsumer("consumer", {Joined: fail})
    registration = IntegrationEventBusRegistration(consumer, USERS, [Joined])
    bus: IntegrationEventBus = RecordingIntegrationEventBus([registration])
    async with bus:
        await bus.send(USERS, Joined("ada"))
    assert bus.registrations == [registration]


async def test_an_outbox_keeps_what_is_put() -> None:
    recording = RecordingOutbox()
    outbox: Outbox = recording
    tomorrow = datetime(2030, 1, 1, tzinfo=UTC)
    await outbox.put(USERS, Joined("ada"), key="1", available_at=tomorrow)
    assert recording.sent == [RecordedEvent(USERS, Joined("ada"), "1", None, tomorrow)]
    assert recording.events_of(Joined) == [Joined("ada")]
    with pytest.raises(EventEncodeError):
        await outbox.put(USERS, Odd(object()))


DUE = datetime(2030, 1, 1, tzinfo=UTC)
NAIVE = DUE.replace(tzinfo=None)


@dataclass
class LongNamed(IntegrationEvent):
    type = "t" * 256
    version = 1


def put(event: IntegrationEvent | None = None, **arguments: Any) -> Call:
    return lambda outbox: outbox.put(USERS, event or Joined("ada"), **arguments)


@pytest.mark.parametrize(
    "call",
    [
        put(LongNamed()),
        put(Joined("x" * (1 << 20))),
        put(key="k" * 256),
        put(key="a\0b"),
        put(key=7),
        put(headers={"x-large": "x" * (64 << 10)}),
        put(available_at=NAIVE),
        put(available_at=timedelta(1)),
        put(replace=True),
        put(schedule_id="a"),
        put(schedule_id="", available_at=DUE),
        put(schedule_id="a" * 256, available_at=DUE),
        put(schedule_id=" a", available_at=DUE),
        put(schedule_id="a\0", available_at=DUE),
        put(schedule_id=7, available_at=DUE),
        put(schedule_id="a", available_at=NAIVE),
        lambda outbox: outbox.cancel(" a"),
        lambda outbox: outbox.reschedule("a", NAIVE),
        lambda outbox: outbox.reschedule(" a", DUE),
        lambda outbox: outbox.scheduled(before=NAIVE),
        lambda outbox: outbox.scheduled(limit=0),
    ],
)
async def test_an_outbox_refuses_what_the_real_one_refuses(call: Call) -> None:
    said, recording = list[str](), RecordingOutbox()
    async with AsyncSession() as session:  # which is not asked: all is refused before
        for outbox in (recording, SQLAlchemyOutbox(session, source="/events/testing")):
            with pytest.raises((EventsError, ValueError, TypeError)) as refused:
                await call(outbox)
            said.append(repr(refused.value))
    assert said[0] == said[1]
    assert recording.sent == []
    assert await recording.scheduled() == []


async def test_a_body_may_be_as_large_as_the_real_one_allows() -> None:
    large = Joined("x" * (1 << 20))
    bus, larger_bus = (
        RecordingIntegrationEventBus(),
        RecordingIntegrationEventBus(max_body_size=2 << 20),
    )
    outbox, larger_outbox = RecordingOutbox(), RecordingOutbox(max_body_size=2 << 20)
    for send in (bus.send, outbox.put):
        with pytest.raises(MessageTooLargeError):
            await send(USERS, large)
    with pytest.raises(MessageTooLargeError):
        await bus.send_many(USERS, [Joined("ada"), large])
    await larger_bus.send(USERS, large)
    await larger_outbox.put(USERS, large)
    assert bus.sent == outbox.sent == []
    assert larger_bus.events_of(Joined) == larger_outbox.events_of(Joined) == [large]
