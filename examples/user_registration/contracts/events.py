from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from events.integration import IntegrationEvent


@dataclass(frozen=True, kw_only=True)
class UserRegisteredV1(IntegrationEvent):
    """Someone registered. Holds what others need to know, not what our `User` looks like."""

    type = "user.registered"
    version = 1

    user_id: UUID
    email: str
    registered_at: datetime
