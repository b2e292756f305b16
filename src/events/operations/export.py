"""Dead letters as JSON lines: one object each, with all that is known of it."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from datetime import datetime

import msgspec
from msgspec import Struct

from events.integration.message import DeadLetter, Message


class _Line(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line. A text body is in `body`, any other in `body_base64`."""

    id: str
    consumer: str
    topic: str
    type: str
    message_id: str
    reason: str
    error: str
    attempts: int
    died_at: datetime
    headers: dict[str, str]
    key: str | None = None
    body: str | None = None
    body_base64: str | None = None


_decode = msgspec.json.Decoder(_Line).decode


def to_line(letter: DeadLetter) -> str:
    """Return a dead letter as one line of JSON, without the newline."""
    message = letter.message
    text, encoded = _text(message.body), None
    if text is None:
        encoded = b64encode(message.body).decode("ascii")
    line = _Line(
        id=letter.id,
        consumer=letter.consumer,
        topic=message.topic,
        type=message.type,
        message_id=message.id,
        reason=letter.reason,
        error=letter.error,
        attempts=letter.attempts,
        died_at=letter.died_at,
        headers=dict(message.headers),
        key=message.key,
        body=text,
        body_base64=encoded,
    )
    return msgspec.json.encode(line).decode()


def read_lines(lines: Iterable[str | bytes]) -> Iterator[DeadLetter]:
    """Read lines from `to_line`; empty lines are ignored.

    Raises `ValueError`, which names the line, for a line that is not a dead letter.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            read = _decode(line)
            body = (read.body or "").encode()
            if read.body_base64 is not None:
                body = b64decode(read.body_base64, validate=True)
        except ValueError as error:
            raise ValueError(
                f"line {number} is not a dead letter that this package exported: {error}"
            ) from None
        message = Message(read.topic, read.type, read.message_id, body, read.headers, read.key)
        yield DeadLetter(
            read.id,
            read.consumer,
            message,
            read.reason,
            read.error,
            read.attempts,
            read.died_at,
        )


def _text(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None
