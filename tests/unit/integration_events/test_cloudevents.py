from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.integration._attributes import decode_value
from events.integration.cloudevents import (
    Envelope,
    attribute,
    encode_value,
    from_structured,
    own_id,
    to_structured,
    unwrapped,
)
from events.integration.event import EventRegistry, IntegrationEvent
from events.integration.message import Delivery, Message
from events.integration.serialization import EventDecoder, Serializer


class Event(IntegrationEvent, abstract=True):
    registry = EventRegistry()


@dataclass
class Deleted(Event):
    type = "user.deleted"
    version = 1
    name: str


@dataclass
class Wrapped(Event):
    """Has the names of an envelope's required members as its fields."""

    type = "wrapped"
    version = 1
    specversion: str
    id: str
    source: str
    data: dict[str, int]


serializer = Serializer("/billing")
decoder = EventDecoder([Deleted, Wrapped])
ENVELOPE = {"specversion": "1.0", "id": "1", "source": "/a", "type": "user.deleted"}


def received(body: bytes, headers: dict[str, str] | None = None, id: str = "made up") -> Delivery:
    return Delivery("users", "me", id, body, headers or {})


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def compact(value: Any, *, ensure_ascii: bool = True) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=ensure_ascii).encode()


# --- header values: HTTP binding, section 3.1.3.2 ---------------------------------------------


def test_the_example_of_the_binding() -> None:
    assert encode_value("Euro \u20ac \U0001f600") == "Euro%20%E2%82%AC%20%F0%9F%98%80"
    assert decode_value("Euro%20%E2%82%AC%20%F0%9F%98%80") == "Euro \u20ac \U0001f600"


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("%e2%82%ac", "\u20ac"),
        ("%41", "A"),
        ('"a b"', "a b"),
        (r'"a \"b\" \\"', 'a "b" \\'),
        ('"a%20b"', "a b"),
        ('"', '"'),
        ("100%", "100%"),
        ("a%2", "a%2"),
    ],
)
def test_what_others_write_is_read(header: str, value: str) -> None:
    assert decode_value(header) == value


def test_an_overlong_encoding_is_rejected() -> None:
    with pytest.raises(UnicodeDecodeError):
        decode_value("%C0%A0")
    assert attribute({"ce-type": "%C0%A0"}, "type") == "%C0%A0"
    assert attribute({}, "type") is None


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_survives_a_header(value: str) -> None:
    encoded = encode_value(value)
    assert decode_value(encoded) == value
    assert all("!" <= letter <= "~" and letter != '"' for letter in encoded)


# --- envelopes --------------------------------------------------------------------------------


def test_an_envelope_holds_attributes_and_data() -> None:
    message = serializer.encode("users", Deleted("x"), key="a b", headers={"X-Tenant": "\u00fc"})
    read = json.loads(to_structured(message))
    assert read == {
        "specversion": "1.0",
        "id": message.id,
        "source": "/billing",
        "type": "user.deleted",
        "time": message.headers["ce-time"],
        "eventversion": 1,
        "correlationid": message.id,
        "datacontenttype": "application/json",
        "partitionkey": "a b",
        "eventheaders": '{"x-tenant":"\u00fc"}',
        "data": {"type": "user.deleted", "version": 1, "name": "x"},
    }


@given(
    st.text(st.characters(codec="utf-8")),
    st.none() | st.text(st.characters(codec="utf-8"), min_size=1),
    st.dictionaries(
        st.text("abcxyz-_09", min_size=1).map(lambda name: f"x{name}"),
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])),
    ),
    st.none() | st.text(st.characters(codec="utf-8"), min_size=1),
)
def test_a_message_survives_an_envelope(
    name: str, key: str | None, headers: dict[str, str], id: str | None
) -> None:
    message = serializer.encode("users", Deleted(name), key=key, headers=headers, id=id)
    envelope = from_structured(to_structured(message))
    assert envelope == Envelope(message.id, message.headers, message.body, key)
    delivery = unwrapped(received(to_structured(message)), expected=True)
    assert (delivery.id, delivery.key, delivery.headers) == (message.id, key, message.headers)
    assert decoder.decode(delivery) == Deleted(name)


@pytest.mark.parametrize(
    "body", [b"", b"\xff\x00", b"[1]", b"3", b' {"a":1} ', b'{"a":"\xff"}', b"{"]
)
def test_a_body_that_is_no_json_object_goes_in_as_base64(body: bytes) -> None:
    message = Message("users", "user.deleted", "1", body, {})
    assert b64encode(body) in to_structured(message)
    assert from_structured(to_structured(message)).body == body


def test_json_of_another_content_type_goes_in_as_base64() -> None:
    message = Message("users", "user.deleted", "1", b"{}", {"content-type": "text/plain"})
    assert b'"data_base64":"e30="' in to_structured(message)
    envelope = from_structured(to_structured(message))
    assert (envelope.body, envelope.headers["content-type"]) == (b"{}", "text/plain")


def test_a_message_from_elsewhere_gets_what_an_envelope_needs() -> None:
    read = json.loads(to_structured(Message("users", "user.deleted", "7", b'{"name":"x"}', {})))
    assert read == {**ENVELOPE, "id": "7", "source": "/", "data": {"name": "x"}}


@pytest.mark.parametrize(
    "data",
    [
        dumped({**ENVELOPE, "data": {"name": "x"}}),
        dumped({"data": {"name": "x"}, **ENVELOPE}),
        dumped({"data": {"name": "x"}, **ENVELOPE}).replace(b" ", b""),
        dumped({**ENVELOPE, "data": {"name": "x"}, "subject": "s"}).replace(b" ", b""),
        dumped({**ENVELOPE, "data_base64": b64encode(b'{"name":"x"}').decode()}),
        dumped({**ENVELOPE, "eventversion": 1, "data": {"name": "x"}}),
        dumped({**ENVELOPE, "eventversion": "1", "data": {"name": "x"}}),
        dumped({**ENVELOPE, "eventversion": None, "subject": None, "data": {"name": "x"}}),
        dumped({**ENVELOPE, "specversion": "1.1", "data": {"name": "x"}}),
        dumped({**ENVELOPE, "data": {"type": "user.deleted", "version": 1, "name": "x"}}),
        dumped({**ENVELOPE, "data": {"type": "express", "name": "x"}}),
        dumped({**ENVELOPE, "datacontenttype": "application/vnd.x+json", "data": {"name": "x"}}),
        dumped({**ENVELOPE, "datacontenttype": "text/plain", "data": '{"name":"x"}'}),
    ],
    ids=range(13),
)
def test_envelopes_of_others_are_read(data: bytes) -> None:
    assert from_structured(data).id == "1"
    assert decoder.decode(unwrapped(received(data), expected=True)) == Deleted("x")
    assert decoder.decode(received(data)) == Deleted("x")
    message = received(data, {"content-type": "Application/CloudEvents+json; charset=utf-8"})
    assert unwrapped(message).id == "1"
    assert decoder.decode(message) == Deleted("x")


def test_the_data_looked_for_is_the_envelopes_own() -> None:
    data = dumped({"subject": 'a,"data":{}', **ENVELOPE, "data": {"name": ',"data":{}}'}})
    for each in (data, data.replace(b", ", b",").replace(b": ", b":")):
        envelope = from_structured(each)
        assert attribute(envelope.headers, "subject") == 'a,"data":{}'
        assert json.loads(envelope.body) == {"name": ',"data":{}}'}


class Placed(Delivery, frozen=True):
    partition: int = 0


def test_a_delivery_keeps_what_its_transport_knows_of_it() -> None:
    body = dumped({**ENVELOPE, "data": {}})
    delivery = Placed("users", "me", "made up", body, {}, attempt=2, partition=3)
    taken_out = unwrapped(delivery, expected=True)
    assert isinstance(taken_out, Placed)
    assert (taken_out.id, taken_out.attempt, taken_out.partition) == ("1", 2, 3)


def test_an_attribute_is_encoded_whatever_characters_are_in_it() -> None:
    for character in map(chr, [*range(0x81), 0x20AC]):
        value = f"a{character}b"
        for ensure_ascii in (True, False):
            data = compact({**ENVELOPE, "subject": value, "data": {}}, ensure_ascii=ensure_ascii)
            assert from_structured(data).headers["ce-subject"] == encode_value(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"3",
        b"[" * 100_000,
        b'{"specversion":' + b"[" * 100_000,
        dumped({"type": "user.deleted", "version": 1, "name": "x"}),
        dumped({"type": "user.deleted", "version": 1, "specversion": "1.0"}),
        dumped({**ENVELOPE, "specversion": "0.3", "data": {}}),
        dumped({**ENVELOPE, "specversion": 1.0, "data": {}}),
        dumped({**ENVELOPE, "id": "", "data": {}}),
        dumped({**ENVELOPE, "id": 3, "data": {}}),
        dumped({**ENVELOPE, "other": [], "data": {}}),
        dumped({**ENVELOPE, "x": {"a": 1, "data": 3}, "data": {"name": "x"}}),
        dumped({**ENVELOPE, "data_base64": "!"}),
        dumped({**ENVELOPE, "data_base64": 3}),
        dumped({**ENVELOPE, "datacontenttype": [], "data": {}}),
        dumped({**ENVELOPE, "datacontenttype": "text/plain", "data": {}}),
        compact({**ENVELOPE, "data": {}})[:-1] + b"]",
        compact({**ENVELOPE, "data": {}})[:-1] + b"\n",
    ],
    ids=range(20),
)
def test_whatever_is_no_envelope_is_a_bare_body(data: bytes) -> None:
    assert from_structured(data) == Envelope(None, {}, data)
    delivery = received(data, {"content-type": "application/cloudevents+json"})
    assert unwrapped(delivery) is delivery


@given(st.text(), st.text(), st.text(), st.dictionaries(st.text("ab"), st.integers(0, 9)))
def test_an_event_with_an_envelopes_names_survives_on_every_bus(
    specversion: str, id: str, source: str, data: dict[str, int]
) -> None:
    for version in ("1.0", specversion):
        try:
            event = Wrapped(version, id, source, data)
            message = serializer.encode("users", event)
        except ValueError:
            return  # a lone surrogate
        binary = received(message.body, dict(message.headers))
        assert decoder.decode(unwrapped(binary)) == event
        assert decoder.decode(unwrapped(received(to_structured(message)), expected=True)) == event


def test_an_envelope_is_one_whatever_its_content_type() -> None:
    body = dumped({**ENVELOPE, "data": {"name": "x"}})
    for headers in (
        {},
        {"content-type": "application/json"},
        {"content-type": "application/cloudevents+json; charset=utf-8"},
        {"content-type": "Application/CloudEvents+JSON", "ce-id": "of a proxy", "ce-type": "other"},
        {"ce-datacontenttype": "application/cloudevents%2Bjson", "ce-type": "other"},
    ):
        delivery = unwrapped(received(body, headers))
        assert (delivery.id, own_id(headers, body)) == ("1", "1")
        assert (attribute(delivery.headers, "source"), delivery.body) == ("/a", b'{"name": "x"}')
        assert decoder.decode(delivery) == Deleted("x")


def test_a_body_that_headers_describe_is_no_envelope() -> None:
    delivery = received(
        dumped({**ENVELOPE, "data": {}}),
        {"content-type": "application/json", "ce-type": "wrapped", "ce-id": "2"},
    )
    assert unwrapped(delivery) is delivery
    assert own_id(delivery.headers, delivery.body) == "2"


def test_a_header_by_our_extensions_name_that_is_not_ours_stays_an_attribute() -> None:
    for value in ("text", "[1]", 3):
        data = dumped({**ENVELOPE, "eventheaders": value, "data": {}})
        assert attribute(from_structured(data).headers, "eventheaders") == str(value)


def test_attributes_have_their_canonical_text() -> None:
    data = dumped({**ENVELOPE, "yes": True, "no": False, "many": -3, "partitionkey": 7, "data": {}})
    envelope = from_structured(data)
    assert [envelope.headers[f"ce-{name}"] for name in ("yes", "no", "many")] == [
        "true",
        "false",
        "-3",
    ]
    assert envelope.key == "7"
