"""What a message may weigh, on every bus."""

from __future__ import annotations

from events.errors import MessageTooLargeError
from events.integration.message import Message

__all__ = ["MAX_HEADERS_SIZE", "check_size"]

MAX_HEADERS_SIZE = 64 << 10
"""Bytes that the names and values of a message's headers may take together.

Brokers carry them in one piece, such as RabbitMQ's frames of 128 KiB, and a dead letter adds to
them. So there is room for that, whatever a message was sent with.
"""

_LONGEST_CHARACTER = 4  # bytes of one in UTF-8

_joined = "".join


def check_size(message: Message, max_body_size: int) -> None:
    """Raise `MessageTooLargeError` if the message is more than a bus may be given."""
    size = len(message.body)
    if size > max_body_size:
        raise MessageTooLargeError(message.topic, message.type, size, max_body_size)
    headers = message.headers
    characters = len(_joined([*headers, *headers.values()]))
    if characters * _LONGEST_CHARACTER > MAX_HEADERS_SIZE:  # which is quickly known, and rare
        size = sum(len(name.encode()) + len(value.encode()) for name, value in headers.items())
        if size > MAX_HEADERS_SIZE:
            raise MessageTooLargeError(
                message.topic, message.type, size, MAX_HEADERS_SIZE, "headers"
            )
