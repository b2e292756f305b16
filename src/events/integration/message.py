"""The data between a bus and its transport: bytes and headers, without events.

A `Message` goes out, a `Delivery` comes in, a `Settlement` goes back. All are frozen. Headers map
lower-case names to strings. Those of CloudEvents have the prefix `ce-`, as in the HTTP and NATS
bindings of CloudEvents 1.0, on every transport. A transport with another notation translates them.

Messages and deliveries cannot be part of a reference cycle, so the garbage collector ignores them
(`gc=False`). A subclass whose fields can refer back to it sets `gc=True`; headers must not.
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
    """A message to be sent.

    `id` is made once and never changes: retries, redeliveries and duplicates share it. Brokers
    route by `type`. `key` groups messages whose order matters; messages without a key have none.
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
    """A message that a transport delivers to one consumer.

    `attempt` counts from 1: the transport adds one for each redelivery after a failure, and none
    for a `Release`. `crashes` is the number of deliveries directly before this one that ended
    without a settlement, as when a process dies; the bus counts them as attempts. `id` is the
    message's id, or, if it has none, an id that stays the same over redeliveries. `redriven` is
    true on the first attempt of a redriven dead letter.
    """

    topic: str
    consumer: str
    id: str
    body: bytes
    headers: Mapping[str, str]
    attempt: int = 1
    key: str | None = None
    crashes: int = 0
    redriven: bool = False

    @property
    def correlation_id(self) -> str:
        """Return the id of the chain of events that this belongs to: its own if it is the first."""
        return _correlation_id(self)

    @property
    def causation_id(self) -> str | None:
        """Return the id of the event whose handler sent this event, or None."""
        return attribute(self.headers, "causationid") or None


def _correlation_id(message: Message | Delivery) -> str:
    return attribute(message.headers, "correlationid") or message.id


class Ack(Struct, frozen=True):
    """The delivery is handled: do not deliver it again."""


class Retry(Struct, frozen=True):
    """Deliver it again after `after` seconds; `attempt` attempts were made so far."""

    after: float
    attempt: int


UNDECODABLE = "undecodable"
TOO_LARGE = "too-large"
UNRETRYABLE = "unretryable"
RETRIES_EXHAUSTED = "retries-exhausted"
CRASHED = "crashed"  # the process died during each attempt


class Reject(Struct, frozen=True):
    """Keep it as a dead letter. `reason` is one of the constants above, `error` is for people."""

    reason: str
    error: str
    attempts: int


class Release(Struct, frozen=True):
    """Return it to the broker as if it had never been delivered: no attempt is counted."""


Settlement: TypeAlias = Ack | Retry | Reject | Release
"""The instruction to a transport for a delivery. Each is final."""


class DeadLetter(Struct, frozen=True):
    """A message that its consumer could not handle, with the reason.

    `id` identifies the dead letter at its consumer; `message.id` is the event's id. Times have a
    zone.
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
    """Set the current delivery of the running task, which handles only this one."""
    _current.set(delivery)
    if _correlation.get() is not None:  # inherited from the code that registered the consumer
        _correlation.set(None)


def current_delivery() -> Delivery | None:
    """Return the delivery that this task handles, or None outside of a handler."""
    return _current.get()


@contextmanager
def correlate(correlation_id: str) -> Generator[None]:
    """Set the correlation id, such as that of an HTTP request, of all events sent in the block.

    Within a handler, it replaces that of the delivery.
    """
    token = _correlation.set(correlation_id)
    try:
        yield
    finally:
        _correlation.reset(token)


def current_correlation() -> str | None:
    """Return the id that `correlate` set around this code, or None."""
    return _correlation.get()
