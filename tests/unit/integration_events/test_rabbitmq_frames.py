"""Deliveries are read as the driver reads them, however they come in; it is the one to agree with."""

from __future__ import annotations

import math
import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import BasicProperties, frame, spec  # type: ignore[import-untyped]

from events.integration.implementation.rabbitmq._connection import _QuickConnection
from events.integration.implementation.rabbitmq._reading import (
    Delivered,
    IncompleteError,
    decode_properties,
    read_delivery,
)
from events.integration.implementation.rabbitmq._writing import ack_frame, publish_frames

NAMES = (
    "content_type", "content_encoding", "headers", "delivery_mode", "priority", "correlation_id",
    "reply_to", "expiration", "message_id", "timestamp", "type", "user_id", "app_id", "cluster_id",
)  # fmt: skip

short = st.text(max_size=60)  # of at most 255 bytes
octet = st.integers(0, 255)
moments = st.integers(0, 2**37).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
decimals = st.builds(
    lambda digits, scale: Decimal(digits) * Decimal(10) ** -scale,
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 20),
)
scalars = st.one_of(
    st.text(), st.binary(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.none(),
    moments, decimals,
)  # fmt: skip
fields = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(short, inner), max_leaves=10
)
properties_of = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(NAMES, short)
    | {
        "headers": st.dictionaries(short, fields),
        "delivery_mode": octet,
        "priority": octet,
        "timestamp": st.integers(0, 2**64 - 1),
    },
)


def shown(properties: Any) -> dict[str, Any]:
    return {name: getattr(properties, name) for name in NAMES}


def encoded(properties: Any) -> bytes:
    return b"".join(properties.encode())


LONGEST = 100_000  # bytes of a frame


def frames(method: Any, properties: Any, body: bytes, channel: int = 7) -> list[bytes]:
    """Return what a broker sends."""
    sent = [
        frame.Method(channel, method).marshal(),
        frame.Header(channel, len(body), properties).marshal(),
    ]
    return [*sent, frame.Body(channel, body).marshal()] if body else sent


def delivery(body: bytes = b"{}", **fields: Any) -> list[bytes]:
    method = spec.Basic.Deliver("tag", 3, exchange="topic", routing_key="type")
    return frames(method, BasicProperties(**fields), body)


@given(given=properties_of)
def test_properties_are_those_that_the_driver_reads(given: dict[str, Any]) -> None:
    data = encoded(BasicProperties(**given))
    ours = decode_properties(b"before" + data + b"behind", 6, 6 + len(data))
    theirs = BasicProperties().decode(data)
    assert shown(ours) == shown(theirs)
    assert encoded(ours) == data, "it is not published again as it was"


@given(letter=st.sampled_from("bBsUuIilLT"), octets=st.binary(min_size=8, max_size=8))
def test_numbers_of_each_width_are_those_that_the_driver_reads(letter: str, octets: bytes) -> None:
    """Of those the driver writes but a few; other clients write all of them."""
    size = {"b": 1, "B": 1, "s": 2, "U": 2, "u": 2, "I": 4, "i": 4}.get(letter, 8)
    if letter == "T":
        octets = bytes(4) + octets[4:]  # what Python has dates for
    entry = b"\x01n" + letter.encode() + octets[:size]
    data = struct.pack(">HI", 1 << 13, len(entry)) + entry
    assert decode_properties(data, 0, len(data)).headers == BasicProperties().decode(data).headers


@pytest.mark.parametrize(("letter", "form"), [("f", ">f"), ("d", ">d")])
@pytest.mark.parametrize("value", [1.5, -0.25, math.inf])
def test_fractions_are_kept_where_the_driver_cuts_them_off(
    letter: str, form: str, value: float
) -> None:
    entry = b"\x01n" + letter.encode() + struct.pack(form, value)
    data = struct.pack(">HI", 1 << 13, len(entry)) + entry
    assert decode_properties(data, 0, len(data)).headers == {"n": value}


@given(
    tag=short,
    number=st.integers(0, 2**63),
    redelivered=st.booleans(),
    key=short,
    given=properties_of,
    body=st.binary(max_size=300),
    behind=st.binary(max_size=20),
)
def test_a_delivery_is_read_in_one_go(
    tag: str,
    number: int,
    redelivered: bool,
    key: str,
    given: dict[str, Any],
    body: bytes,
    behind: bytes,
) -> None:
    method = spec.Basic.Deliver(tag, number, redelivered, "topic", key)
    data = b"".join(frames(method, BasicProperties(**given), body))
    read = read_delivery(b"before" + data + behind, 6)
    assert isinstance(read, Delivered)
    assert (read.channel, read.consumer_tag, read.delivery_tag) == (7, tag, number)
    assert (read.redelivered, read.routing_key, read.body) == (redelivered, key, body)
    assert shown(read.properties) == shown(BasicProperties(**given))
    assert read.end == 6 + len(data)


def test_what_has_not_come_whole_is_waited_for() -> None:
    data = b"".join(delivery(message_id="m"))
    for end in range(11, len(data)):
        with pytest.raises(IncompleteError):
            read_delivery(data[:end], 0)
    for end in range(11):  # it may be anything as yet
        assert read_delivery(data[:end], 0) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        frame.Heartbeat().marshal(),
        frame.Method(7, spec.Basic.Ack(1)).marshal(),
        b"".join(frames(spec.Basic.Return(404, "", "topic", "type"), BasicProperties(), b"{}")),
        # Another channel's frame in between.
        b"".join([delivery()[0], frame.Method(8, spec.Basic.CancelOk("tag")).marshal() + b"." * 99]),
        # A body in two frames.
        b"".join(
            [*delivery(body=b"1234")[:2], frame.Body(7, b"12").marshal(), frame.Body(7, b"34").marshal()]
        ),
        b"".join(delivery())[:-1] + b"\0",
        # A field of a type that nobody knows.
        b"".join(delivery(headers={"a": b""})).replace(b"\x01ax", b"\x01a?"),
        # A string that goes on after its table's end.
        b"".join(delivery(headers={"a": "b"})).replace(b"\x01aS\0\0\0\x01", b"\x01aS\0\0\0\x02"),
        b"".join(delivery(message_id="m")).replace(b"\x01m", b"\x02m"),
    ],
)  # fmt: skip
def test_all_else_is_left_to_the_driver(data: bytes) -> None:
    assert read_delivery(data, 0) is None


def published(exchange: str, key: str, given: Any, body: bytes, *, mandatory: bool) -> bytes | None:
    return publish_frames(
        7, exchange, key, given, body, mandatory=mandatory, longest=LONGEST, spare=0
    )


@given(
    exchange=short,
    key=short,
    given=st.fixed_dictionaries(
        {},
        optional={
            "content_type": short,
            "headers": st.dictionaries(short, st.text()),
            "delivery_mode": octet,
            "message_id": short,
            "type": short,
        },
    ),
    body=st.binary(max_size=300),
    mandatory=st.booleans(),
)
def test_messages_are_those_that_the_driver_writes(
    exchange: str, key: str, given: dict[str, Any], body: bytes, mandatory: bool
) -> None:
    properties = BasicProperties(**given)
    method = spec.Basic.Publish(exchange=exchange, routing_key=key, mandatory=mandatory)
    expected = b"".join(frames(method, properties, body))
    assert published(exchange, key, properties, body, mandatory=mandatory) == expected


@given(given=properties_of)
def test_of_unusual_messages_none_is_written_otherwise(given: dict[str, Any]) -> None:
    properties = BasicProperties(**given)
    ours = published("topic", "key", properties, b"{}", mandatory=False)
    method = spec.Basic.Publish(exchange="topic", routing_key="key")
    assert ours in (None, b"".join(frames(method, properties, b"{}")))


@pytest.mark.parametrize(
    ("given", "body"),
    [
        ({"priority": 1}, b""),
        ({"correlation_id": ""}, b""),
        ({"headers": {"a": 1}}, b""),
        ({"headers": {"a" * 256: "text"}}, b""),
        ({"headers": {"a": "\ud800"}}, b""),
        ({"message_id": "m" * 256}, b""),
        ({"message_id": b"m"}, b""),
        ({"delivery_mode": 256}, b""),
        ({"type": ["t"]}, b""),
        ({}, b"." * (LONGEST + 1)),
    ],
)
def test_unusual_messages_are_left_to_the_driver(given: dict[str, Any], body: bytes) -> None:
    assert published("topic", "key", BasicProperties(**given), body, mandatory=False) is None


def test_acknowledgements_are_those_that_the_driver_writes() -> None:
    for channel, tag in ((1, 1), (65535, 2**63)):
        assert ack_frame(channel, tag) == frame.Method(channel, spec.Basic.Ack(tag)).marshal()


class Connection(_QuickConnection):
    """One with a channel and a consumer, that notes what is read and by whom."""

    def __init__(self) -> None:  # not the driver's: it would connect
        self._frame_buffer = b""
        self._channels = {7: self}
        self._cancelled: set[str] = set()
        self._consumers = {"tag": self.consumed}
        self.bytes_received = self.frames_received = 0
        self.read: list[Any] = []

    def consumed(self, _: Any, method: Any, properties: Any, body: bytes) -> None:
        self.read.append((method.delivery_tag, properties.message_id, body))

    def _process_frame(self, value: Any) -> None:
        self.frames_received += 1
        self.read.append(value.NAME)


@given(data=st.data())
def test_however_it_comes_in_all_is_read_in_order(data: st.DataObject) -> None:
    sent: list[bytes] = []
    expected: list[Any] = []
    for number in range(data.draw(st.integers(1, 10))):
        kind = data.draw(st.sampled_from(["delivery", "empty", "two bodies", "ack", "heartbeat"]))
        if kind == "ack":
            sent.append(ack_frame(7, number))
            expected.append("METHOD")
        elif kind == "heartbeat":
            sent.append(frame.Heartbeat().marshal())
            expected.append("Heartbeat")
        elif kind == "two bodies":
            whole = delivery(b"1234")
            sent += [*whole[:2], frame.Body(7, b"12").marshal(), frame.Body(7, b"34").marshal()]
            expected += ["METHOD", "Header", "Body", "Body"]
        else:
            body = b"" if kind == "empty" else data.draw(st.binary(min_size=1, max_size=50))
            sent += delivery(body, message_id=str(number))
            expected.append((3, str(number), body))
    connection, left = Connection(), b"".join(sent)
    while left:
        size = data.draw(st.integers(1, len(left)))
        connection._on_data_available(left[:size])
        left = left[size:]
    assert connection.read == expected
    assert connection.bytes_received == len(b"".join(sent))
    assert connection.frames_received == len(sent)


def test_what_comes_for_a_consumer_that_was_cancelled_is_left_to_the_driver() -> None:
    connection = Connection()
    connection._cancelled.add("tag")
    connection._on_data_available(b"".join(delivery()))
    assert connection.read == ["METHOD", "Header", "Body"]
