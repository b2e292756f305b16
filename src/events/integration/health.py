"""The health of a bus, for readiness probes."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["Backlog", "BusHealth", "ConsumerHealth"]


class Backlog(Struct, frozen=True):
    """What a consumer has yet to handle. A number that the broker does not report is None.

    `waiting` is what no process has taken, `in_flight` what a process has in flight, `delayed`
    what waits for a retry. `oldest_age` is how many seconds ago the oldest of the waiting was sent.
    `settled` is how many deliveries were settled, whatever became of them, in all processes and for
    as long as the broker counts: the difference of two looks is a rate.
    """

    waiting: int
    dead_letters: int
    in_flight: int | None = None
    delayed: int | None = None
    oldest_age: float | None = None
    settled: int | None = None


class ConsumerHealth(Struct, frozen=True):
    """The health of one registration. `last_poll` is the time since the broker's last answer.

    `error` is the broker's text of a problem that the consumer has now, while it retries.
    """

    consumer: str
    topic: str
    alive: bool
    in_flight: int
    last_poll: float | None
    error: str | None = None


class BusHealth(Struct, frozen=True):
    """The health of a bus and its consumers. `error` says why it is not connected, if known.

    `paused` names the consumers that are paused in all processes; `consumers` omits them.
    """

    started: bool
    connected: bool
    consumers: tuple[ConsumerHealth, ...]
    error: str | None = None
    paused: tuple[str, ...] = ()

    @property
    def healthy(self) -> bool:
        """Return whether the bus is started and connected, and every consumer is alive."""
        at_work = all(c.alive and c.error is None for c in self.consumers)
        return self.started and self.connected and at_work
