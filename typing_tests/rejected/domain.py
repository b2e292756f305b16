"""Mistakes with domain events: both type checkers must report each marked line, and no other."""

from __future__ import annotations

from dataclasses import dataclass

from events.domain import AggregateRoot, DomainEvent, DomainEventDispatcher, DomainEventHandler


@dataclass
class UserRegistered(DomainEvent):
    type = "user.registered"
    email: str


@dataclass
class UserDeleted(DomainEvent):
    type = "user.deleted"
    email: str


class NotAnEvent:
    pass


class TakesTheWrongEvent(DomainEventHandler[UserRegistered]):
    async def handle(self, event: UserDeleted) -> None:  # error
        print(event)


class TakesLessThanPromised(DomainEventHandler[UserRegistered | UserDeleted]):
    async def handle(self, event: UserDeleted) -> None:  # error
        print(event)


class IsNotAsync(DomainEventHandler[UserRegistered]):
    def handle(self, event: UserRegistered) -> None:  # error
        print(event)


class HandlesNoEvent(DomainEventHandler[NotAnEvent]):  # error
    async def handle(self, event: NotAnEvent) -> None:
        print(event)


class HandlesNothing(DomainEventHandler[UserRegistered]):
    pass


def make() -> None:
    HandlesNothing()  # error
    UserRegistered()  # error
    UserRegistered(email=1)  # error
    print(UserRegistered(email="ada@example.org").mail)  # error


async def publish(aggregate: AggregateRoot, dispatcher: DomainEventDispatcher) -> None:
    aggregate.publish_event(NotAnEvent())  # error
    aggregate.publish_event(UserRegistered)  # error
    dispatcher.store_event(NotAnEvent())  # error
    dispatcher.store_events(UserRegistered("ada@example.org"))  # error
