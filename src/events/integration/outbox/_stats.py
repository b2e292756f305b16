"""The stats and health of a relay."""

from __future__ import annotations

from msgspec import Struct


class RelayHealth(Struct, frozen=True):
    """The health of a relay.

    `outage` describes the outage that it waits for, if any. `last_read` is the time in seconds
    since it last read the table. `partitions` is how many of the 32 partitions it holds: all, if it
    is the only relay.
    """

    started: bool
    alive: bool
    outage: str | None
    last_read: float | None
    partitions: int

    @property
    def healthy(self) -> bool:
        """Return whether the relay is started, alive and in no outage."""
        return self.started and self.alive and self.outage is None


class RelayStats(Struct, frozen=True):
    """Counts of an outbox's rows, and this relay's rate.

    `oldest_age` is how many seconds the oldest due row has waited, 0 if there is none. `rate` is
    the rows per second that this relay has sent in the last ten seconds.
    """

    pending: int
    parked: int
    oldest_age: float
    rate: float
