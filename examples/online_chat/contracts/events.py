"""The events of a room. Each travels on the room's own topic, so none has to name the room."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from events.integration import IntegrationEvent


@dataclass(frozen=True, kw_only=True)
class Attendee:
    """A chatter as others see them: `id` tells two of one name apart."""

    id: str
    name: str


@dataclass(frozen=True, kw_only=True)
class MessageSentV1(IntegrationEvent):
    """Somebody said something. `message_id` is made by who says it, and kept when they retry."""

    type = "chat.message_sent"
    version = 1

    message_id: UUID
    author: Attendee
    text: str
    sent_at: datetime


@dataclass(frozen=True, kw_only=True)
class UserConnectedV1(IntegrationEvent):
    """A chatter came in, at one server, with one connection of perhaps several."""

    type = "chat.user_connected"
    version = 1

    server: str
    connection: str
    user: Attendee


@dataclass(frozen=True, kw_only=True)
class UserDisconnectedV1(IntegrationEvent):
    """That connection has ended."""

    type = "chat.user_disconnected"
    version = 1

    server: str
    connection: str
    user: Attendee


@dataclass(frozen=True, kw_only=True)
class RollCalledV1(IntegrationEvent):
    """A server begins to follow the room, and asks the others whom they have in it."""

    type = "chat.roll_called"
    version = 1

    server: str


@dataclass(frozen=True, kw_only=True)
class ServerAttendedV1(IntegrationEvent):
    """Everybody whom one server has in the room, by connection. Sent again and again."""

    type = "chat.server_attended"
    version = 1

    server: str
    attendees: dict[str, Attendee]
