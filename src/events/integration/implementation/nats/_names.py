"""The names of topics, types and consumers at the server.

    topic "orders"                 stream `orders`, which holds `orders.>`
    type "order.paid" on it        subject `orders.order.paid`
    consumer "billing" on it       durable consumer `billing`, redriven by `orders.@redrive.billing`
    dead letters, of all topics    stream `events@dead-letters`, `events@dead-letters.billing` in it
    paused consumer                message on `events@dead-letters.@paused.billing` in it
    attempts, while retried        stream `events@attempts`, a subject for each message and consumer

Streams and consumers are directories at the server, and their names are tokens of subjects, so of
a name letters, digits, `-` and `_` stay as they are and every other byte becomes `=` and two hex
digits, as in `orders=2Eeu` for "orders.eu". (Not `%`: servers up to 2.9 use names as format
strings.) The dots of a type remain, so `orders.order.*` works at the server. `@` is in no encoded
name: what is ours never meets a topic of a user's.
"""

from __future__ import annotations

import re
from functools import lru_cache

from events.errors import InvalidTopologyError

_LONGEST = 255  # bytes that the server takes, and file systems do

_other = re.compile(rb"[^A-Za-z0-9_-]").sub
_escape = re.compile(rb"=([0-9A-F]{2})").sub


def token(kind: str, name: str) -> str:
    """Encode a name of a topic or consumer; raise `InvalidTopologyError` if it gets too long."""
    encoded = _encode(name)
    if len(encoded) > _LONGEST:
        raise InvalidTopologyError(
            f"{kind}({name!r})",
            f"at NATS its name would be {len(encoded)} bytes long, the limit is {_LONGEST}: use "
            f"fewer characters other than letters, digits, '-' and '_', each takes three",
        )
    return encoded


def topic_of(stream: str) -> str:
    """Return the topic whose stream this is."""
    return _decode(stream)


@lru_cache(1024)
def type_subject(stream: str, type: str) -> str:
    """Return the subject of events of this type."""
    tokens = type.split(".")
    if not all(tokens):
        return f"{stream}.{_encode(type)}"
    return ".".join((stream, *map(_encode, tokens)))


def type_in(stream: str, subject: str) -> str:
    """Return the type of whatever came by this subject."""
    encoded = subject[len(stream) + 1 :]
    if "=" not in encoded:
        return encoded
    return _decode(encoded)


def redrive_subject(stream: str, consumer: str) -> str:
    """Return the subject of what is for this consumer alone."""
    return f"{stream}.@redrive.{consumer}"


def _decode(encoded: str) -> str:
    decoded = _escape(lambda match: bytes((int(match[1], 16),)), encoded.encode())
    return decoded.decode(errors="replace")  # others may have written anything


def _encode(name: str) -> str:
    return _other(lambda match: b"=%02X" % match[0][0], name.encode()).decode()
