"""The checks of what is put into an outbox: those of a database, and of the one for tests."""

from __future__ import annotations

from datetime import UTC, datetime

from events.errors import OutboxError
from events.integration.limits import LONGEST_NAME
from events.integration.message import Message


def check_storable(message: Message) -> None:
    """Raise `OutboxError` for a type or a key that the tables cannot hold."""
    key = message.key
    if len(message.type) > LONGEST_NAME or (key is not None and len(key) > LONGEST_NAME):
        raise OutboxError(
            f"{message.type!r} with key {key!r}: the outbox holds types and keys of up to "
            f"{LONGEST_NAME} characters; use a hash of a longer key"
        )
    if key is not None and "\0" in key:  # PostgreSQL would refuse it, and too late
        raise OutboxError(f"{message.type!r}: a key cannot have a NUL character: {key!r}")


def check_schedule(schedule_id: object, available_at: object, *, replace: bool) -> None:
    """Raise for arguments of `put` that schedule nothing, or under no id."""
    if schedule_id is not None:
        check_schedule_id(schedule_id)
        if available_at is None:
            raise ValueError(f"schedule_id={schedule_id!r} needs available_at=, the event's time")
    elif replace:
        raise ValueError("replace=True needs schedule_id=, the id of the event to replace")


def check_schedule_id(given: object) -> None:
    """Raise for a schedule id that databases would not tell from another one, or not store."""
    if not isinstance(given, str):
        raise TypeError(f"schedule_id must be a string, not {given!r}")
    if not 1 <= len(given) <= LONGEST_NAME:
        raise ValueError(
            f"schedule_id must have 1 to {LONGEST_NAME} characters, not {len(given)}: {given!r}"
        )
    if given != given.strip() or "\0" in given:
        raise ValueError(f"schedule_id has blanks at an end, or a NUL character: {given!r}")


def in_utc(name: str, given: object) -> datetime:
    """Return a time in UTC; raise for one without a zone."""
    if not isinstance(given, datetime):
        raise TypeError(f"{name} must be a datetime, not {given!r}")
    if given.tzinfo is None:
        raise ValueError(f"{name} has no time zone: {given!r}; use UTC")
    return given.astimezone(UTC)
