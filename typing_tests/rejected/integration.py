"""Mistakes with integration events: both type checkers must report each marked line, no other."""

from __future__ import annotations

from dataclasses import dataclass

from events.integration import (
    Consumer,
    EventHandlerConsumer,
    IntegrationEvent,
    IntegrationEventBus,
    IntegrationEventBusRegistration,
    Topic,
)


@dataclass(frozen=True)
class UserRegisteredV1(IntegrationEvent):
    type = "user.registered"
    version = 1
    email: str


@dataclass(frozen=True)
class UserDeletedV1(IntegrationEvent):
    type = "user.deleted"
    version = 1
    email: str


class TakesTheWrongEvent(Consumer):
    async def on_event(self, event: UserDeletedV1) -> None:  # error
        print(event)


async def on_deleted(event: UserDeletedV1) -> None:
    print(event)


def on_registered(event: UserRegisteredV1) -> None:
    print(event)


def handlers(consumer: EventHandlerConsumer) -> None:
    consumer.add_handler(UserRegisteredV1, on_deleted)  # error
    consumer.add_handler(UserRegisteredV1, on_registered)  # error


def decorated(consumer: EventHandlerConsumer) -> None:
    consumer.on(UserRegisteredV1)(on_deleted)  # error
    consumer.on(UserRegisteredV1)(on_registered)  # error
    consumer.on("user.registered")  # error
    consumer.subscribe("users")  # error


async def bus(bus: IntegrationEventBus, consumer: Consumer) -> None:
    await bus.send("users", UserRegisteredV1("ada@example.org"))  # error
    await bus.send(Topic("users"), UserRegisteredV1)  # error
    await bus.register(IntegrationEventBusRegistration(consumer, "users", [UserDeletedV1]))  # error
    IntegrationEventBus()  # error
    Consumer("mailer")  # error


def make() -> None:
    UserRegisteredV1()  # error
    UserRegisteredV1(email=1)  # error
    Topic(1)  # error
