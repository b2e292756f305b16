"""Read the frames of AMQP 0-9-1 that a busy consumer receives most.

The driver builds an object for each frame, looks for callbacks of it, and decodes its fields one
call at a time: more than half of what a delivery costs. Here a delivery that has come whole, its
three frames one after another, is read in one go. Everything else is left to the driver, and so is
what looks odd in any way: whatever it makes of that stays as it is.

    method   1  channel  size  60 60  consumer tag, delivery tag, redelivered, exchange, key   CE
    header   2  channel  size  60 0   size of the body, flags, properties in order of flags    CE
    body     3  channel  size         the body                                                 CE
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from struct import Struct
from typing import Any, TypeAlias

from events.integration.implementation.rabbitmq._driver import BasicProperties, Properties

_METHOD, _HEADER, _BODY, _END = 1, 2, 3, 0xCE
_AROUND = 8  # bytes of a frame that are not its content: seven before it, one behind
_BASIC, _DELIVER = 60, 0x003C003C

_method_start, _header_start, _body_start = Struct(">BHII"), Struct(">BHIHHQ"), Struct(">BHI")
_tag_and_bits = Struct(">QB").unpack_from
_flags = Struct(">H").unpack_from
_uint32 = Struct(">I").unpack_from
_uint64 = Struct(">Q").unpack_from


class IncompleteError(Exception):
    """More bytes must come first."""


class Delivered:
    """One message for one of a connection's consumers, and where the bytes after it begin."""

    __slots__ = (
        "body", "channel", "consumer_tag", "delivery_tag", "end", "properties", "redelivered",
        "routing_key",
    )  # fmt: skip

    def __init__(self, channel: int, consumer_tag: str, end: int) -> None:
        self.channel = channel
        self.consumer_tag = consumer_tag
        self.end = end
        self.delivery_tag: int
        self.redelivered: bool
        self.routing_key: str
        self.properties: Properties
        self.body: bytes


class _Properties(BasicProperties):  # type: ignore[misc]
    """The driver's own, made without setting what a message does not have."""

    content_type = content_encoding = headers = delivery_mode = priority = correlation_id = None
    reply_to = expiration = message_id = timestamp = type = user_id = app_id = cluster_id = None

    def __init__(self) -> None:
        """Set nothing."""


def read_delivery(data: bytes, at: int) -> Delivered | None:
    """Return the delivery that begins there; None for anything else.

    Raises:
        IncompleteError: it begins there, and its end is still to come.
    """
    frames = _frames_of_delivery(data, at)
    if frames is None:
        return None
    channel, header, body, end = frames
    try:
        place = at + 12 + data[at + 11]
        delivered = Delivered(channel, data[at + 12 : place].decode(), end)
        delivered.delivery_tag, bits = _tag_and_bits(data, place)
        delivered.redelivered = bool(bits & 1)
        place += 9
        place += 1 + data[place]  # past the exchange's name
        delivered.routing_key = data[place + 1 : place + 1 + data[place]].decode()
        delivered.properties = decode_properties(data, header + 19, body - 1)
        delivered.body = data[body + 7 : end - 1]
    except (IndexError, KeyError, ValueError, OverflowError, OSError, struct.error):
        return None
    return delivered


def _frames_of_delivery(data: bytes, at: int) -> tuple[int, int, int, int] | None:
    """Return the channel, and where the header, the body and what comes after them begin."""
    if len(data) < at + _method_start.size:
        return None
    kind, channel, size, method = _method_start.unpack_from(data, at)
    if kind != _METHOD or method != _DELIVER:
        return None
    header = at + size + _AROUND
    if len(data) < header + _header_start.size:
        raise IncompleteError
    kind, number, size, class_, _, body_size = _header_start.unpack_from(data, header)
    if kind != _HEADER or number != channel or class_ != _BASIC:
        return None
    end = body = header + size + _AROUND
    if body_size:
        if len(data) < body + _body_start.size:
            raise IncompleteError
        kind, number, size = _body_start.unpack_from(data, body)
        if kind != _BODY or number != channel or size != body_size:
            return None
        end = body + size + _AROUND
    if len(data) < end:
        raise IncompleteError
    if not data[header - 1] == data[body - 1] == data[end - 1] == _END:
        return None
    return channel, header, body, end


def decode_properties(data: bytes, at: int, end: int) -> Properties:
    """Return the properties between these two places.

    Raises:
        ValueError: they are not what AMQP has, or another error of those that decoding raises.
    """
    (flags,) = _flags(data, at)
    at += 2
    if flags & 3:
        raise ValueError("flags that AMQP does not have")
    properties = _Properties()
    set_ones = properties.__dict__
    for name, decode in _decoders(flags):
        set_ones[name], at = decode(data, at)
    if at != end:
        raise ValueError("properties that do not end where they should")
    return properties


@lru_cache(64)
def _decoders(flags: int) -> tuple[tuple[str, _Decode], ...]:
    """Return the names of the properties that these say are there, and what reads each."""
    return tuple((name, decode) for bit, name, decode in _PROPERTIES if flags & bit)


def _short_string(data: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + data[at]
    return data[at + 1 : end].decode(), end


def _table(data: bytes, at: int) -> tuple[dict[str, Any], int]:
    end = at + 4 + _uint32(data, at)[0]
    at += 4
    table: dict[str, Any] = {}
    while at < end:
        value_at = at + 1 + data[at]
        name = data[at + 1 : value_at].decode()
        if data[value_at] == _STRING:  # most are
            at = value_at + 5 + _uint32(data, value_at + 1)[0]
            found = data[value_at + 5 : at]
            try:
                table[name] = found.decode()
            except UnicodeDecodeError:
                table[name] = found
        else:
            table[name], at = _value(data, value_at)
    if at != end:
        raise ValueError("a table that does not end where it should")
    return table, at


def _array(data: bytes, at: int) -> tuple[list[Any], int]:
    end = at + 4 + _uint32(data, at)[0]
    at += 4
    array: list[Any] = []
    while at < end:
        value, at = _value(data, at)
        array.append(value)
    if at != end:
        raise ValueError("an array that does not end where it should")
    return array, at


def _value(data: bytes, at: int) -> tuple[Any, int]:
    return _FIELDS[data[at]](data, at + 1)


def _bytes(data: bytes, at: int) -> tuple[bytes, int]:
    end = at + 4 + _uint32(data, at)[0]
    return data[at + 4 : end], end


def _string(data: bytes, at: int) -> tuple[str | bytes, int]:
    found, at = _bytes(data, at)
    return _text(found), at


def _text(found: bytes) -> str | bytes:
    try:
        return found.decode()
    except UnicodeDecodeError:
        return found


def _boolean(data: bytes, at: int) -> tuple[bool, int]:
    return bool(data[at]), at + 1


def _decimal(data: bytes, at: int) -> tuple[Decimal, int]:
    scale, digits = _scaled(data, at)
    return Decimal(digits) * (Decimal(10) ** -scale), at + 5


_scaled = Struct(">Bi").unpack_from


def _time(data: bytes, at: int) -> tuple[datetime, int]:
    return datetime.fromtimestamp(_uint64(data, at)[0], UTC), at + 8


def _nothing(_: bytes, at: int) -> tuple[None, int]:
    return None, at


_Decode: TypeAlias = Callable[[bytes, int], tuple[Any, int]]


def _number(form: str) -> _Decode:
    struct = Struct(f">{form}")
    unpack, size = struct.unpack_from, struct.size

    def decode(data: bytes, at: int) -> tuple[Any, int]:
        return unpack(data, at)[0], at + size

    return decode


_octet, _timestamp = _number("B"), _number("Q")

_STRING = ord("S")
# RabbitMQ's letters, where the standard and brokers differ.
_FIELDS: dict[int, _Decode] = {
    ord(letter): decode
    for letter, decode in {
        "S": _string, "x": _bytes, "t": _boolean, "F": _table, "A": _array, "V": _nothing,
        "b": _number("b"), "B": _octet, "s": _number("h"), "U": _number("h"), "u": _number("H"),
        "I": _number("i"), "i": _number("I"), "l": _number("q"), "L": _number("q"),
        "f": _number("f"), "d": _number("d"), "D": _decimal, "T": _time,
    }.items()
}  # fmt: skip

_PROPERTIES: tuple[tuple[int, str, _Decode], ...] = tuple(
    (1 << 15 - place, name, decode)
    for place, (name, decode) in enumerate(
        {
            "content_type": _short_string, "content_encoding": _short_string, "headers": _table,
            "delivery_mode": _octet, "priority": _octet, "correlation_id": _short_string,
            "reply_to": _short_string, "expiration": _short_string, "message_id": _short_string,
            "timestamp": _timestamp, "type": _short_string, "user_id": _short_string,
            "app_id": _short_string, "cluster_id": _short_string,
        }.items()
    )
)  # fmt: skip
