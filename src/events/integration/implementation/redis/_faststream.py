"""Frames of FastStream, 0.6 and newer, which wraps what it sends to Redis in a format of its own.

    89 "BIN" 0D 0A 1A 0A   version 1, uint16   headers at, uint32   data at, uint32
    number of headers, uint16   then for each its name and its value: length, uint16, and UTF-8
    the data, to the end

On pub/sub and in lists a frame is the message; in a stream it is the field `__data__` of an entry.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

FIELD = b"__data__"
_BEGIN = b"\x89BIN\r\n\x1a\n\x00\x01"
_places = struct.Struct(">II").unpack_from
_short = struct.Struct(">H").unpack_from


class Frame(NamedTuple):
    """The parts of an envelope."""

    body: bytes
    headers: dict[str, str]


def read_frame(data: bytes) -> Frame | None:
    """Return body and headers, their names in lower case; None if it is no such frame."""
    if not data.startswith(_BEGIN):
        return None
    try:
        at, body_at = _places(data, len(_BEGIN))
        (count,) = _short(data, at)
        at += 2
        headers: dict[str, str] = {}
        for _ in range(count):
            name, at = _text(data, at, body_at)
            headers[name.lower()], at = _text(data, at, body_at)
    except (struct.error, ValueError):
        return None
    return Frame(data[body_at:], headers)


def _text(data: bytes, at: int, end: int) -> tuple[str, int]:
    (length,) = _short(data, at)
    at += 2
    if at + length > end:
        raise ValueError("a text that ends in the data")
    return data[at : at + length].decode(), at + length
