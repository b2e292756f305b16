"""What a bus says of itself to a readiness probe."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["BusHealth", "ConsumerHealth"]


class ConsumerHealth(Struct, frozen=True):
    """One registration. `last_poll` is how many seconds ago the broker was last heard of."""

    consumer: str
    topic: str
    alive: bool
    in_flight: int
    last_poll: float | None


class BusHealth(Struct, frozen=True):
    """A bus and its consumers at one moment."""

    started: bool
    connected: bool
    consumers: tuple[ConsumerHealth, ...]

    @property
    def healthy(self) -> bool:
        """Tell whether the bus is started, connected, and has every consumer alive."""
        return self.started and self.connected and all(c.alive for c in self.consumers)
