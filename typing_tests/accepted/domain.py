"""Domain events as users write them: both type checkers must find nothing here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import assert_type
from uuid import UUID, uuid4

from events.domain import (
    AggregateRoot,
    DomainEvent,
    DomainEventDispatcher,
    DomainEventHandler,
)


@dataclass
class User(AggregateRoot):
    email: str
    id: UUID = field(default_factory=uuid4)

    def register(self) -> None:
        self.publish_event(UserRegistered(self))


@dataclass(frozen=True, slots=True)
class UserRegistered(DomainEvent):
    type = "user.registered"
    user: User


@dataclass(kw_only=True)
class UserDeleted(DomainEvent):
    type = "user.deleted"
    user_id: UUID


class SendWelcome(DomainEventHandler[UserRegistered]):
    def __init__(self, sender: str) -> None:
        self.sender = sender

    async def handle(self, event: UserRegistered) -> None:
        assert_type(event.user, User)
        assert_type(event.type, str)


class Audit(DomainEventHandler[DomainEvent]):
    async def handle(self, event: DomainEvent) -> None:
        assert_type(event.type, str)


class Count(DomainEventHandler[UserRegistered | UserDeleted]):
    async def handle(self, event: UserRegistered | UserDeleted) -> None:
        match event:
            case UserRegistered(user=user):
                assert_type(user, User)
            case UserDeleted(user_id=user_id):
                assert_type(user_id, UUID)


class WiderThanNeeded(DomainEventHandler[UserRegistered]):
    async def handle(self, event: DomainEvent) -> None:
        """Handle more than is asked: parameters are contravariant."""


async def unit_of_work(dispatcher: DomainEventDispatcher, user: User) -> None:
    user.register()
    async with dispatcher as entered:
        assert_type(entered, DomainEventDispatcher)
        entered.from_entity(user)
        entered.store_event(UserDeleted(user_id=user.id))
        entered.store_events([UserRegistered(user), UserDeleted(user_id=user.id)])
    await dispatcher.process()


def reads() -> str:
    assert_type(UserRegistered.type, str)
    return UserRegistered.type
