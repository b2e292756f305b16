"""Log output about a row: its name, its fields for structured loggers, and that it was sent."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from events.integration.outbox.port import OutboxRow

logger = logging.getLogger("events.integration")


def name_of(row: OutboxRow) -> str:
    """Return the event's type, its id, and its topic."""
    message = row.message
    return f"{message.type} {message.id} for topic {message.topic!r}"


def fields_of(row: OutboxRow, attempt: int) -> dict[str, object]:
    """Return the fields that lines about a delivery have as well; there is no consumer yet."""
    message = row.message
    return {
        "topic": message.topic,
        "event_type": message.type,
        "event_id": message.id,
        "correlation_id": message.correlation_id,
        "attempt": attempt,
    }


def log_sent(rows: Sequence[OutboxRow]) -> None:
    """Log each row that the bus has taken, at a level that is mostly off."""
    if logger.isEnabledFor(logging.DEBUG):
        for row in rows:
            logger.debug("%s was sent", name_of(row), extra=fields_of(row, row.attempts + 1))
