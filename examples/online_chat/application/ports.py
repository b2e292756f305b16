from typing import Protocol

from examples.online_chat.contracts import Attendee, MessageSentV1
from examples.online_chat.domain.presence import Change


class UnavailableError(Exception):
    """Not now, as the bus cannot be reached; the same may be tried again. For people to read."""


class Listener(Protocol):
    """Somebody's page. None of these waits: who is slow must not hold up the room."""

    def on_message(self, event: MessageSentV1, /) -> None:
        """Show a message, including this person's own."""
        ...

    def on_change(self, change: Change, member: Attendee, /) -> None:
        """Show that somebody came or went."""
        ...

    def on_reach(self, *, connected: bool) -> None:
        """Show whether this server and the others hear each other."""
        ...
