"""Write the frames of AMQP 0-9-1 that a busy sender and a busy consumer send most.

The driver encodes each field and each header with several calls. Here the frames of a message of
the usual kind, with text in its headers and few properties, are put together in one go, and what
many messages have in common is encoded once. All else is left to the driver. See `_reading`, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from struct import Struct
from typing import Any, cast

from events.integration.implementation.rabbitmq._driver import HeadersTooLongError, Properties

_METHOD, _HEADER, _BODY, _END = 1, 2, 3, b"\xce"
_BASIC, _PUBLISH, _ACK = 60, 0x003C0028, 0x003C0050
_CONTENT_TYPE, _HEADERS, _DELIVERY_MODE = 1 << 15, 1 << 13, 1 << 12
_MESSAGE_ID, _TYPE = 1 << 7, 1 << 5
_USUAL = frozenset({"content_type", "headers", "delivery_mode", "message_id", "type"})
_LONGEST = 255  # bytes of a short string

_frame = Struct(">BHI").pack
_publish = Struct(">IH").pack
_content = Struct(">HHQH").pack  # with the flags
_uint32 = Struct(">I").pack
_ack = Struct(">BHIIQBc").pack


def ack_frame(channel: int, delivery_tag: int) -> bytes:
    """Return the frame that acknowledges one delivery."""
    return _ack(_METHOD, channel, 13, _ACK, delivery_tag, 0, _END)


def publish_frames(
    channel: int,
    exchange: str,
    routing_key: str,
    properties: Properties,
    body: bytes,
    *,
    mandatory: bool,
    longest: int,
    spare: int,
) -> bytes | None:
    """Return the frames that send a message; None if it is not of the usual kind.

    `longest` is what a frame may hold, of which the headers leave `spare` bytes.

    Raises:
        HeadersTooLongError: they do not.
    """
    try:
        content = _properties(properties, len(body))
        method = _method_frame(channel, exchange, routing_key, mandatory)
    except (_UnusualError, TypeError, ValueError):
        return None  # it may be that the driver cannot either, and says why
    if len(content) > longest - spare:
        raise HeadersTooLongError(len(content), longest - spare)
    if len(body) > longest:
        return None
    header = _frame(_HEADER, channel, len(content))
    frames = (method, header, content, _END)
    if not body:
        return b"".join(frames)
    return b"".join((*frames, _frame(_BODY, channel, len(body)), body, _END))


class _UnusualError(Exception):
    pass


@lru_cache(1024)
def _method_frame(channel: int, exchange: str, routing_key: str, mandatory: bool) -> bytes:  # noqa: FBT001
    arguments = _publish(_PUBLISH, 0) + _short(exchange) + _short(routing_key) + bytes([mandatory])
    return _frame(_METHOD, channel, len(arguments)) + arguments + _END


def _properties(properties: Properties, body_size: int) -> bytes:
    fields = cast("Mapping[str, Any]", vars(properties))
    for name, value in fields.items():
        if value is not None and name not in _USUAL:
            raise _UnusualError
    flags = 0
    pieces: list[bytes] = [b""]
    if (content_type := fields.get("content_type")) is not None:
        flags |= _CONTENT_TYPE
        pieces.append(_common(content_type))
    if (headers := fields.get("headers")) is not None:
        flags |= _HEADERS
        pieces += _table(headers)
    if (mode := fields.get("delivery_mode")) is not None:
        flags |= _DELIVERY_MODE
        pieces.append(bytes((mode,)))
    if (message_id := fields.get("message_id")) is not None:
        flags |= _MESSAGE_ID
        pieces.append(_short(message_id))
    if (type_ := fields.get("type")) is not None:
        flags |= _TYPE
        pieces.append(_common(type_))
    pieces[0] = _content(_BASIC, 0, body_size, flags)
    return b"".join(pieces)


def _table(headers: dict[str, Any]) -> list[bytes]:
    pieces: list[bytes] = [b""]
    size = 0
    for name, value in headers.items():
        if type(value) is not str:
            raise _UnusualError
        start, text = _start_of_text(name), value.encode()
        pieces += (start, _uint32(len(text)), text)
        size += len(start) + 4 + len(text)
    pieces[0] = _uint32(size)
    return pieces


def _short(text: str) -> bytes:
    if type(text) is not str:
        raise _UnusualError
    encoded = text.encode()
    if len(encoded) > _LONGEST:
        raise _UnusualError
    return bytes((len(encoded),)) + encoded


@lru_cache(1024)
def _common(text: str) -> bytes:
    """Encode what many messages have."""
    return _short(text)


@lru_cache(1024)
def _start_of_text(name: str) -> bytes:
    return _short(name) + b"S"
