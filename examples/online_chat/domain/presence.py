"""Who is in a room, as far as one server knows. No clock and no bus in here: times are handed in.

Each server is believed about its own people. What it announces (`connect`, `disconnect`) is quick
but may get lost on a bus that keeps nothing; what it lists again and again (`attend`) puts that
right; and of a server that has been silent for `timeout` seconds all people are gone.

    unknown --connect, attend--> heard of --silent for `timeout`--> unknown
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from examples.online_chat.contracts import Attendee


class Change(StrEnum):
    """What happened to a person."""

    JOINED = "joined"
    PRESENT = "present"  # was here before we knew
    LEFT = "left"
    LOST = "lost"  # disappeared without leaving


@dataclass
class _Server:
    heard_at: float
    attendees: dict[str, Attendee] = field(default_factory=dict[str, Attendee])


Changes = list[tuple[Change, Attendee]]


class Presence:
    """The people of one room, by server and connection. Times are in seconds, of any one clock."""

    def __init__(self, own: str, timeout: float) -> None:
        """`own` is the server that asks: it never doubts itself."""
        self._own = own
        self._timeout = timeout
        self._servers: dict[str, _Server] = {}

    @property
    def members(self) -> list[Attendee]:
        """Give everybody once, however many connections they have, by name and id."""
        return sorted(self._everybody(), key=lambda member: (member.name.casefold(), member.id))

    def of(self, server: str) -> Mapping[str, Attendee]:
        """Give a server's people, by connection."""
        known = self._servers.get(server)
        return dict(known.attendees) if known else {}

    def connect(self, server: str, connection: str, user: Attendee, now: float) -> Changes:
        def change() -> None:
            self._heard(server, now).attendees[connection] = user

        return self._changes(change, came=Change.JOINED, went=Change.LEFT)

    def disconnect(self, server: str, connection: str, now: float) -> Changes:
        def change() -> None:
            self._heard(server, now).attendees.pop(connection, None)

        return self._changes(change, came=Change.JOINED, went=Change.LEFT)

    def attend(self, server: str, attendees: Mapping[str, Attendee], now: float) -> Changes:
        """Believe the whole list; what differs from it must have got lost on the way."""

        def change() -> None:
            self._heard(server, now).attendees = dict(attendees)

        return self._changes(change, came=Change.PRESENT, went=Change.LOST)

    def expire(self, now: float) -> Changes:
        """Forget the servers that have been silent for too long."""

        def change() -> None:
            for name, server in list(self._servers.items()):
                if name != self._own and now - server.heard_at > self._timeout:
                    del self._servers[name]

        return self._changes(change, came=Change.PRESENT, went=Change.LOST)

    def excuse(self, now: float) -> None:
        """Hold no silence until now against anybody: it is us who could hear nothing."""
        for server in self._servers.values():
            server.heard_at = now

    def _heard(self, name: str, now: float) -> _Server:
        server = self._servers.setdefault(name, _Server(now))
        server.heard_at = now
        return server

    def _changes(self, change: Callable[[], None], *, came: Change, went: Change) -> Changes:
        before = self._everybody()
        change()
        after = self._everybody()
        return [
            *((went, member) for member in before - after),
            *((came, member) for member in after - before),
        ]

    def _everybody(self) -> set[Attendee]:
        return {a for server in self._servers.values() for a in server.attendees.values()}
