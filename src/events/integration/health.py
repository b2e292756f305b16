"""What a bus says of itself to a readiness probe."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["Backlog", "BusHealth", "ConsumerHealth"]


class Backlog(Struct, frozen=True):
    """What a consumer has yet to handle, as its broker tells. None is what that does not tell.

    `waiting` is what nobody has taken, `in_flight` what some process has in hand, `delayed` what
    waits for a retry. `oldest_age` is how many seconds ago the oldest of the waiting was sent.
    """

    waiting: int
    dead_letters: int
    in_flight: int | None = None
    delayed: int | None = None
    oldest_age: float | None = None


class ConsumerHealth(Struct, frozen=True):
    """One registration. `last_poll` is how many seconds ago the broker was last heard of.

    `error` is what keeps it from its work at this moment, in the broker's words, where it tries on.
    """

    consumer: str
    topic: str
    alive: bool
    in_flight: int
    last_poll: float | None
    error: str | None = None


class BusHealth(Struct, frozen=True):
    """A bus and its consumers at one moment. `error` says why it is not connected, where known."""

    started: bool
    connected: bool
    consumers: tuple[ConsumerHealth, ...]
    error: str | None = None

    @property
    def healthy(self) -> bool:
        """Tell whether the bus is started, connected, and has every consumer alive and at work."""
        at_work = all(c.alive and c.error is None for c in self.consumers)
        return self.started and self.connected and at_work
