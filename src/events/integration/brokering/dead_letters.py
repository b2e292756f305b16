"""A dead letter at a broker: the message as it came, with headers that describe its failure.

    events-id, events-type, events-topic    of the event
    events-consumer                         who could not handle it
    events-reason, events-error             why, for machines and for people
    events-attempts, events-died-at         after how many attempts, and when

They are the same on every broker; each transport encodes them as its broker needs. So an
operator with a broker's own tools needs only one set of names.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Protocol, runtime_checkable

from events.integration.cloudevents import attribute
from events.integration.message import DeadLetter, Delivery, Message, Reject

PREFIX = "events-"
ID, ATTEMPTS = "events-id", "events-attempts"
TOPIC, TYPE, CONSUMER = "events-topic", "events-type", "events-consumer"
REASON, ERROR, DIED_AT = "events-reason", "events-error", "events-died-at"
NAMES = (ID, ATTEMPTS, TOPIC, TYPE, CONSUMER, REASON, ERROR, DIED_AT)

LONGEST_ERROR = 8_000
"""Characters of an error that are kept: brokers carry a message's headers in one piece."""

RESERVED_BYTES = 2_048
"""Room for the headers above, without the error, in whatever a broker takes of a message."""


@runtime_checkable
class HeadSource(Protocol):
    """A store of dead letters that can read them without their bodies."""

    def scan_heads(self, consumer: str) -> AsyncGenerator[Sequence[DeadLetter]]:
        """Yield each dead letter once, in batches of any order, in flat memory.

        Of a message, only topic and type are always set; the other fields of a dead letter are
        those of `read`. Close the generator if you stop early.
        """
        ...


def record_of(delivery: Delivery, reject: Reject, *, type: str) -> dict[str, str]:
    """Return the headers of a dead letter, in the order of `NAMES`.

    `type` is the event's as the broker tells it, for a message whose headers do not.
    """
    return {
        ID: delivery.id,
        ATTEMPTS: str(reject.attempts),
        TOPIC: delivery.topic,
        TYPE: attribute(delivery.headers, "type") or type,
        CONSUMER: delivery.consumer,
        REASON: reject.reason,
        ERROR: reject.error[:LONGEST_ERROR],
        DIED_AT: datetime.now(UTC).isoformat(),
    }


def read_dead_letter(
    id: str,
    consumer: str,
    record: Mapping[str, str],
    *,
    body: bytes,
    headers: Mapping[str, str],
    key: str | None,
) -> DeadLetter:
    """Return the dead letter that a broker keeps under this id.

    It never raises: what others wrote, or did not write, must not hide the dead letters beside it.
    """
    attempts = record.get(ATTEMPTS, "")
    message = Message(
        record.get(TOPIC, ""),
        attribute(headers, "type") or record.get(TYPE, ""),
        record.get(ID) or id,
        body,
        headers,
        key,
    )
    return DeadLetter(
        id,
        consumer,
        message,
        record.get(REASON, ""),
        record.get(ERROR, ""),
        int(attempts) if attempts.isdecimal() else 0,
        _time(record.get(DIED_AT, "")),
    )


def _time(text: str) -> datetime:
    time = datetime.fromtimestamp(0, UTC)
    with suppress(ValueError):
        time = datetime.fromisoformat(text)
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
