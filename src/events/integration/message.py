"""What crosses the seam between a bus and its transport: bytes and headers, nothing above them.

A `Message` goes out, a `Delivery` comes in, a `Settlement` goes back. All are frozen. Headers map
lower-case names to strings; those of CloudEvents bear the prefix `ce-`, as in the HTTP and NATS
bindings of CloudEvents 1.0, whatever the transport. A transport that must write them otherwise
translates on its own side.

Neither message nor delivery can be part of a cycle, so the garbage collector leaves them alone
(`gc=False`). A subclass that can be, by what it adds, says `gc=True`; headers must not lead back.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import TypeAlias

from msgspec import Struct

from events.integration._attributes import attribute

__all__ = [
    "CRASHED",
    "RETRIES_EXHAUSTED",
    "TOO_LARGE",
    "UNDECODABLE",
    "UNRETRYABLE",
    "Ack",
    "DeadLetter",
    "Delivery",
    "Message",
    "Reject",
    "Release",
    "Retry",
    "Settlement",
    "correlate",
    "current_correlation",
    "current_delivery",
    "set_current_delivery",
]


class Message(Struct, frozen=True, gc=False):
    """A message on its way out.

    `id` is made once and never changes: retries, redeliveries and duplicates bear the same. `type`
    is what brokers route by. `key` groups messages whose order matters; None has no order.
    """

    topic: str
    type: str
    id: str
    body: bytes
    headers: Mapping[str, str]
    key: str | None = None

    @property
    def correlation_id(self) -> str:
        """Return the id of the chain of events that this belongs to: its own if it is the first."""
        return _correlation_id(self)


class Delivery(Struct, frozen=True, gc=False):
    """A message as a transport hands it to one consumer.

    `attempt` counts from 1: the transport adds one for each redelivery that followed a failure, and
    none for a `Release`. `crashes` says how many deliveries before this one, in a row, ended with
    no settlement, as when a process dies; the bus makes attempts of them. `id` is the message's own
    where it bears one, else one that stays the same over redeliveries.
    """

    topic: str
    consumer: str
    id: str
    body: bytes
    headers: Mapping[str, str]
    attempt: int = 1
    key: str | None = None
    crashes: int = 0

    @property
    def correlation_id(self) -> str:
        """Return the id of the chain of events that this belongs to: its own if it is the first."""
        return _correlation_id(self)

    @property
    def causation_id(self) -> str | None:
        """Return the id of the event whose handler sent this one."""
        return attribute(self.headers, "causationid") or None


def _correlation_id(message: Message | Delivery) -> str:
    return attribute(message.headers, "correlationid") or message.id


class Ack(Struct, frozen=True):
    """The consumer is done with it."""


class Retry(Struct, frozen=True):
    """Deliver it again after `after` seconds; `attempt` were used up so far."""

    after: float
    attempt: int


UNDECODABLE = "undecodable"
TOO_LARGE = "too-large"
UNRETRYABLE = "unretryable"
RETRIES_EXHAUSTED = "retries-exhausted"
CRASHED = "crashed"  # the process ended at it, each time


class Reject(Struct, frozen=True):
    """Keep it as a dead letter: `reason`, one of those above, for machines, `error` for people."""

    reason: str
    error: str
    attempts: int


class Release(Struct, frozen=True):
    """Give it back as if it had never been delivered: no attempt is counted."""


Settlement: TypeAlias = Ack | Retry | Reject | Release
"""What a transport does with a delivery: one of four, each of them final."""


class DeadLetter(Struct, frozen=True):
    """A message that its consumer could not handle, kept with all that was known.

    `id` names this dead letter at its consumer; `message.id` is the event's own. Times have a zone.
    """

    id: str
    consumer: str
    message: Message
    reason: str
    error: str
    attempts: int
    died_at: datetime


_current: ContextVar[Delivery | None] = ContextVar("events.current_delivery", default=None)
_correlation: ContextVar[str | None] = ContextVar("events.correlation", default=None)


def set_current_delivery(delivery: Delivery) -> None:
    """Make this the current delivery of the running task, which handles nothing else."""
    _current.set(delivery)
    if _correlation.get() is not None:  # of whoever registered the consumer; never of this delivery
        _correlation.set(None)


def current_delivery() -> Delivery | None:
    """Return the delivery that is being handled in this task, or None outside of a handler."""
    return _current.get()


@contextmanager
def correlate(correlation_id: str) -> Generator[None]:
    """Give what is sent or put within the block this correlation id, as that of an HTTP request.

    Within a handler it takes the place of the delivery's own.
    """
    token = _correlation.set(correlation_id)
    try:
        yield
    finally:
        _correlation.reset(token)


def current_correlation() -> str | None:
    """Return the id that `correlate` set around this code, or None."""
    return _correlation.get()
