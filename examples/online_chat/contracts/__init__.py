"""What the servers tell each other."""

from examples.online_chat.contracts.events import (
    Attendee,
    MessageSentV1,
    RollCalledV1,
    ServerAttendedV1,
    UserConnectedV1,
    UserDisconnectedV1,
)
from examples.online_chat.contracts.topics import topic_of

__all__ = [
    "Attendee",
    "MessageSentV1",
    "RollCalledV1",
    "ServerAttendedV1",
    "UserConnectedV1",
    "UserDisconnectedV1",
    "topic_of",
]
