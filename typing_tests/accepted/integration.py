"""Integration events as users write them: both type checkers must find nothing here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, assert_type

from sqlalchemy.ext.asyncio import AsyncSession

from events.dishka import DomainEventsProvider, IntegrationEventsProvider, OutboxProvider
from events.integration import (
    Consumer,
    EventHandlerConsumer,
    EventKey,
    IntegrationEvent,
    IntegrationEventBus,
    IntegrationEventBusRegistration,
    Middleware,
    Topic,
)
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.implementation.dishka import IntegrationEventImplementationProvider
from events.integration.implementation.memory import InMemoryIntegrationEventBus
from events.integration.topology.consumer import EventHandler, EventHandlerRegistry
from events.memory import MemoryBroadcastBus, MemoryBus
from events.nats import NATSBus
from events.rabbitmq import RabbitMQBus
from events.redis import RedisPubSubBus, RedisStreamsBus
from events.sqlalchemy import SQLAlchemyOutbox

USERS = Topic("users")


@dataclass(frozen=True, slots=True)
class UserRegisteredV1(IntegrationEvent):
    type = "user.registered"
    version = 1
    email: str


@dataclass(frozen=True, kw_only=True)
class UserRegisteredV2(IntegrationEvent):
    type = "user.registered"
    version = 2
    email: str
    at: datetime | None = None


class Versioned(IntegrationEvent, abstract=True):
    """A base of your own."""


class Mailer(Consumer):
    async def on_event(self, event: IntegrationEvent) -> None:
        if isinstance(event, UserRegisteredV1):
            assert_type(event.email, str)


async def on_registered(event: UserRegisteredV2) -> None:
    assert_type(event.at, datetime | None)


async def count(event: IntegrationEvent) -> None:
    assert_type(event.type, str)


async def on_first(event: UserRegisteredV1) -> None:
    assert_type(event.email, str)


def consumers(given: EventHandlerRegistry | None = None) -> None:
    EventHandlerConsumer("given", given)
    EventHandlerConsumer(
        name="literal",
        handlers={UserRegisteredV1: [on_first, count], UserRegisteredV2: [on_registered]},
    )
    EventHandlerConsumer("alone", {UserRegisteredV2: on_registered})
    EventHandlerConsumer("mixed", {UserRegisteredV1: on_first, UserRegisteredV2: [count]})
    of_one = {UserRegisteredV1: [on_first]}
    of_several = {UserRegisteredV1: [count], UserRegisteredV2: [count]}
    EventHandlerConsumer("of one", of_one)
    consumer = EventHandlerConsumer("of several", of_several)
    assert_type(consumer.handlers, dict[type[IntegrationEvent], list[EventHandler]])
    consumer.handlers[UserRegisteredV1].append(on_first)
    consumer.add_handler(event_type=UserRegisteredV1, handler=count)


emails = EventHandlerConsumer("emails")


@emails.on(UserRegisteredV1)
async def send_welcome(event: UserRegisteredV1) -> None:
    assert_type(event.email, str)


@emails.on(UserRegisteredV2)
async def count_all(event: IntegrationEvent) -> None:
    assert_type(event.type, str)


async def doors(url: str) -> None:
    await send_welcome(UserRegisteredV1("ada@example.org"))
    registration = emails.subscribe(USERS, concurrency=10)
    assert_type(registration, IntegrationEventBusRegistration)
    for event in IntegrationEventBusRegistration(emails, USERS).events:
        assert_type(event, type[IntegrationEvent])
    buses: list[TransportIntegrationEventBus] = [
        MemoryBus([registration]),
        MemoryBroadcastBus([registration]),
        RabbitMQBus(url, [registration]),
        RedisStreamsBus(url, [registration], max_crashes=3, lease=10),
        RedisPubSubBus(url, [registration]),
        NATSBus(url, [registration], max_crashes=3, lease=10),
    ]
    for bus in buses:
        await bus.send(USERS, UserRegisteredV1("ada@example.org"))


def provide_all() -> None:
    DomainEventsProvider()
    IntegrationEventsProvider(MemoryBus, [emails.subscribe(USERS)])
    OutboxProvider(SQLAlchemyOutbox, AsyncSession, source="/users")


class BusOfSomeone(IntegrationEventBus):
    """A bus that someone wrote on the bare port."""

    def __init__(self, registrations: list[IntegrationEventBusRegistration] | None = None) -> None:
        super().__init__(registrations)
        self.sent: list[tuple[Topic, IntegrationEvent]] = []

    async def startup(self) -> None:
        for registration in self.registrations:
            assert_type(registration, IntegrationEventBusRegistration)

    async def shutdown(self) -> None:
        self.sent.clear()

    async def register(self, registration: IntegrationEventBusRegistration) -> None:
        await super().register(registration)

    async def send(self, topic: Topic, event: IntegrationEvent) -> None:
        self.sent.append((topic, event))


async def use(bus: IntegrationEventBus) -> None:
    consumer = EventHandlerConsumer("mailer")
    consumer.add_handler(UserRegisteredV2, on_registered)
    await bus.register(IntegrationEventBusRegistration(consumer, USERS, consumer.handlers.keys()))
    await bus.register(IntegrationEventBusRegistration(Mailer("x"), USERS, [UserRegisteredV1]))
    await bus.send(USERS, UserRegisteredV1(email="ada@example.org"))


def payloads() -> None:
    payload = UserRegisteredV1("ada@example.org").to_dict()
    assert_type(payload, dict[str, Any])
    assert_type(UserRegisteredV1.from_dict(payload), UserRegisteredV1)
    assert_type(IntegrationEvent.from_dict(payload), IntegrationEvent)
    assert_type(UserRegisteredV1.version, int)
    assert_type(IntegrationEvent.registry[EventKey("user.registered", 1)], type[IntegrationEvent])


def make_bus(
    registrations: Sequence[IntegrationEventBusRegistration], *, middlewares: Sequence[Middleware]
) -> TransportIntegrationEventBus:
    return InMemoryIntegrationEventBus(registrations, middlewares=middlewares)


def provide_a_bus() -> None:
    IntegrationEventImplementationProvider(make_bus)
    IntegrationEventImplementationProvider(InMemoryIntegrationEventBus)
