"""What a relay tells of itself and of its outbox."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["RelayHealth", "RelayStats"]


class RelayHealth(Struct, frozen=True):
    """A relay at one moment.

    `outage` says what it is waiting for to go away; `last_read` is how many seconds ago it last
    read the table; `partitions` is how many of the 32 partitions it holds, all of them if it is
    alone.
    """

    started: bool
    alive: bool
    outage: str | None
    last_read: float | None
    partitions: int

    @property
    def healthy(self) -> bool:
        """Tell whether the relay is started, alive and without outage."""
        return self.started and self.alive and self.outage is None


class RelayStats(Struct, frozen=True):
    """An outbox at one moment: all of its rows, and what this relay has sent of late.

    `oldest_age` is how many seconds the oldest row that is due has waited, 0 if there is none.
    `rate` is this relay's rows per second over the last ten seconds.
    """

    pending: int
    parked: int
    oldest_age: float
    rate: float
