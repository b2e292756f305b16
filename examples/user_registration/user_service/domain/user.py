from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

from events.domain import AggregateRoot, DomainEvent
from examples.user_registration.user_service.domain.email import email_address


@dataclass(eq=False)
class User(AggregateRoot):
    id: UUID
    email: str
    registered_at: datetime

    @classmethod
    def register(cls, email: str) -> User:
        user = cls(uuid4(), email_address(email), datetime.now(UTC))
        user.publish_event(UserRegistered(user))
        return user


@dataclass(frozen=True)
class UserRegistered(DomainEvent):
    type = "user.registered"

    user: User
