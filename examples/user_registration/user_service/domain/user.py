from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID, uuid4

from events.domain import AggregateRoot, DomainEvent
from examples.user_registration.user_service.domain.email import email_address


@dataclass(eq=False)
class User(AggregateRoot):
    id: UUID
    email: str
    password_hash: str = field(repr=False)
    registered_at: datetime

    @classmethod
    def register(cls, email: str, password_hash: str) -> User:
        user = cls(uuid4(), email_address(email), password_hash, datetime.now(UTC))
        user.publish_event(UserRegistered(user))
        return user


@dataclass(frozen=True)
class UserRegistered(DomainEvent):
    type = "user.registered"

    user: User
