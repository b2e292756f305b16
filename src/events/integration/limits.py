"""Size limits of a message, on every bus."""

from __future__ import annotations

from typing import Final

from events.errors import MessageTooLargeError
from events.integration.message import Message

MAX_HEADERS_SIZE = 64 << 10
"""The maximum size of a message's headers in bytes, names and values together.

Brokers limit headers, such as RabbitMQ to a frame of 128 KiB, and a dead letter adds some. This
limit leaves room for them.
"""

LONGEST_NAME: Final = 255
"""The maximum length of a name in a table, in characters: a type, a key, a consumer, a relay."""

_LONGEST_CHARACTER = 4  # bytes of one in UTF-8

_joined = "".join


def check_size(message: Message, max_body_size: int) -> None:
    """Raise `MessageTooLargeError` if the body or the headers are too large."""
    check_body_size(message, max_body_size)
    check_headers_size(message)


def check_body_size(message: Message, max_body_size: int) -> None:
    """Raise `MessageTooLargeError` if the body is too large; `Serializer` checks the headers."""
    size = len(message.body)
    if size > max_body_size:
        raise MessageTooLargeError(message.topic, message.type, size, max_body_size)


def check_headers_size(message: Message) -> None:
    """Raise `MessageTooLargeError` if the headers are too large."""
    headers = message.headers
    characters = len(_joined([*headers, *headers.values()]))
    if characters * _LONGEST_CHARACTER > MAX_HEADERS_SIZE:  # which is quickly known, and rare
        size = sum(len(name.encode()) + len(value.encode()) for name, value in headers.items())
        if size > MAX_HEADERS_SIZE:
            raise MessageTooLargeError(
                message.topic, message.type, size, MAX_HEADERS_SIZE, "headers"
            )
