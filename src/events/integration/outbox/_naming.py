"""How a row is called in the log, and what a structured logger files the line under."""

from __future__ import annotations

from events.integration.outbox.port import OutboxRow

__all__ = ["fields_of", "name_of"]


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
