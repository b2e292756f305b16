from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.errors import (
    EventDefinitionError,
    EventEncodeError,
    InvalidEventError,
    MalformedEventError,
    MessageTooLargeError,
    UnknownEventError,
)
from events.integration.cloudevents import attribute
from events.integration.event import EventRegistry, IntegrationEvent
from events.integration.limits import MAX_HEADERS_SIZE
from events.integration.message import Delivery, Message, correlate, set_current_delivery
from events.integration.serialization import EventDecoder, Serializer


class Event(IntegrationEvent, abstract=True):
    registry = EventRegistry()


@dataclass
class Registered(Event):
    type = "user.registered"
    version = 2
    email: str

    @classmethod
    def upcast(cls, payload: dict[str, Any]) -> dict[str, Any]:
        return {"email": payload["mail"]}


@dataclass
class Deleted(Event):
    type = "user.deleted"
    version = 1
    name: str = ""


@dataclass
class Ping(Event):
    type = "ping"
    version = 1


@dataclass
class Odd(Event):
    type = "größe 100%"
    version = 1
    specversion: str
    id: str
    source: str
    data: dict[str, int]


serializer = Serializer("/billing")
decoder = EventDecoder([Registered, Deleted, Ping, Odd])


def delivered(message: Message) -> Delivery:
    return Delivery(message.topic, "me", message.id, message.body, message.headers)


def delivery(body: object, headers: Mapping[str, str] | None = None) -> Delivery:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Delivery("users", "me", "1", encoded, headers or {})


def sent_while_handling(cause: Delivery, **options: Any) -> Mapping[str, str]:
    """Give the headers of what a handler of a delivery sends."""
    context = copy_context()
    context.run(set_current_delivery, cause)
    return context.run(serializer.encode, "users", Ping(), **options).headers


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1-01"
CAUSE = Delivery(
    "t",
    "c",
    "cause 1",
    b"",
    {"ce-correlationid": "flow%201", "traceparent": TRACE, "tracestate": "a=b", "x-tenant": "t"},
)


# --- encode -----------------------------------------------------------------------------------


def test_the_body_is_the_flat_json_object() -> None:
    message = serializer.encode("users", Registered("a@b.c"))
    assert message.body == b'{"type":"user.registered","version":2,"email":"a@b.c"}'
    assert (message.topic, message.type, message.key) == ("users", "user.registered", None)


LARGE = "x" * MAX_HEADERS_SIZE


@pytest.mark.parametrize("giver", ["key", "id", "headers", "correlation", "cause", "source"])
def test_headers_are_measured_whoever_gave_them(giver: str) -> None:
    def encode() -> Message:
        match giver:
            case "correlation":
                with correlate(LARGE):
                    return serializer.encode("users", Ping())
            case "cause":
                set_current_delivery(Delivery("t", "c", LARGE, b"", {}))
                return serializer.encode("users", Ping())
            case "source":
                return Serializer(LARGE).encode("users", Ping())
            case _:
                options: dict[str, Any] = {giver: {"x": LARGE} if giver == "headers" else LARGE}
                return serializer.encode("users", Ping(), **options)

    with pytest.raises(MessageTooLargeError, match="headers"):
        copy_context().run(encode)


def test_headers_are_cloudevents_attributes() -> None:
    before = datetime.now(UTC)
    message = serializer.encode("users", Registered("a"), key="42")
    headers = dict(message.headers)
    at = headers.pop("ce-time")
    assert headers == {
        "ce-specversion": "1.0",
        "ce-id": message.id,
        "ce-source": "/billing",
        "ce-type": "user.registered",
        "ce-eventversion": "2",
        "ce-correlationid": message.id,
        "ce-partitionkey": "42",
        "content-type": "application/json",
    }
    assert UUID(message.id).version == 7
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", at)
    assert abs((datetime.fromisoformat(at) - before).total_seconds()) < 5


@given(st.integers(0, 250_000_000_000 * 10**9))
def test_a_time_is_rfc_3339(now: int) -> None:
    from events.integration.serialization import _rfc3339

    seconds, nanos = divmod(now, 10**9)
    wanted = datetime.fromtimestamp(seconds, UTC).replace(microsecond=nanos // 1000)
    assert datetime.fromisoformat(_rfc3339(now)) == wanted


def test_an_id_given_is_kept() -> None:
    message = serializer.encode("users", Ping(), id="my id")
    assert (message.id, message.headers["ce-id"]) == ("my id", "my%20id")
    assert message.headers["ce-correlationid"] == "my%20id"


def test_what_a_handler_sends_belongs_to_what_it_handles() -> None:
    headers = sent_while_handling(CAUSE)
    assert headers["ce-correlationid"] == "flow%201"
    assert headers["ce-causationid"] == "cause%201"
    assert headers["traceparent"] == headers["ce-traceparent"] == TRACE
    assert headers["tracestate"] == headers["ce-tracestate"] == "a=b"
    assert "x-tenant" not in headers


def test_a_delivery_without_correlation_begins_one() -> None:
    headers = sent_while_handling(Delivery("t", "c", "id 1", b"", {"ce-traceparent": TRACE}))
    assert headers["ce-correlationid"] == headers["ce-causationid"] == "id%201"
    assert headers["traceparent"] == headers["ce-traceparent"] == TRACE


def test_a_trace_of_the_senders_own_goes_before_the_inherited() -> None:
    headers = sent_while_handling(CAUSE, headers={"TraceParent": "00-c-d-01"})
    assert headers["traceparent"] == headers["ce-traceparent"] == "00-c-d-01"
    assert "tracestate" not in headers
    assert "ce-tracestate" not in headers


def test_headers_of_a_user_are_lower_cased_and_sent_as_they_are() -> None:
    message = serializer.encode("users", Ping(), headers={"X-Tenant": "größe 100% \U0001f600"})
    assert message.headers["x-tenant"] == "größe 100% \U0001f600"


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({"ce-id": "1"}, "header 'ce-id': its name is reserved for CloudEvents: use another name"),
        ({"CE-Custom": "1"}, "header 'CE-Custom': its name is reserved for CloudEvents"),
        (
            {"Content-Type": "text/plain"},
            "header 'Content-Type': its name is reserved for CloudEvents",
        ),
        ({"data": "1"}, "header 'data': its name is reserved for the body, in a Redis stream"),
        (
            {"Content-Encoding": "gzip"},
            "header 'Content-Encoding': its name is reserved for compression",
        ),
        ({"events-key": "1"}, "header 'events-key': its name is reserved for this package"),
        ({"Events-Id": "1"}, "header 'Events-Id': its name is reserved for this package"),
        ({"X-Death": "1"}, "header 'X-Death': its name is reserved for RabbitMQ"),
        ({"x-opt-a": "1"}, "header 'x-opt-a': its name is reserved for RabbitMQ"),
        ({"nats-msg-id": "1"}, "header 'nats-msg-id': its name is reserved for the NATS server"),
        (
            {"cloudEvents_id": "1"},
            "header 'cloudEvents_id': its name is reserved for CloudEvents, in AMQP",
        ),
        ({"": "1"}, "header '': its name is invalid: use letters, digits and hyphens"),
        ({"a b": "1"}, "header 'a b': its name is invalid: use letters, digits and hyphens"),
        ({"größe": "1"}, "header 'größe': its name is invalid: use letters"),
        (
            {"\u212a": "1"},
            "header '\u212a': its name is invalid: use letters",
        ),  # the Kelvin sign: lower-case k
        ({"a\n": "1"}, r"header 'a\\n': its name is invalid: use letters"),
        ({"a": 1}, "header 'a': its value is 1: names and values must be str"),
        ({1: "a"}, "header 1: its value is 'a': names and values must be str"),
        ({"a": "b\r\nc: d"}, "header 'a': its value has a control character"),
        ({"a": "\x00"}, "its value has a control character"),
        ({"a": "\x85"}, "its value has a control character"),
        ({"a": "\ud800"}, "its value has a lone surrogate"),
        ({"a": "1", "A": "2"}, "header 'A': it is given twice"),
        ([("a", "1")], r"headers must be a mapping, not \[\('a', '1'\)\]"),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused(headers: Any, text: str) -> None:
    with pytest.raises(EventEncodeError, match=text):
        serializer.encode("users", Ping(), headers=headers)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"type": "ping"}, "cannot encode dict: it is not an IntegrationEvent: pass an instance"),
        (None, "cannot encode NoneType: it is not an IntegrationEvent"),
        (Ping, r"cannot encode Ping: it is a class, not an event: pass `Ping\(...\)`"),
    ],
)
def test_what_is_no_event_is_refused(given: Any, text: str) -> None:
    with pytest.raises(EventEncodeError, match=text):
        serializer.encode("users", given)


@pytest.mark.parametrize("name", ["key", "id"])
@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", "must be a non-empty str, not ''"),
        (1, "must be a non-empty str, not 1"),
        ("\ud800", "has a lone surrogate, which UTF-8 cannot encode"),
    ],
)
def test_a_key_or_an_id_that_cannot_be_sent_is_refused(name: str, value: Any, text: str) -> None:
    with pytest.raises(EventEncodeError, match=f"Ping: {name} {text}"):
        serializer.encode("users", Ping(), **{name: value})


@pytest.mark.parametrize(
    "source",
    [
        "",
        "a\nb",
        "\ud800",
        "größe",
        "a b",
        "1:b",
        ":a",
        "<a>",
        "%4",
        "a[1]",
        "//[::1]x",
        "a#b#c",
        3,
    ],
)
def test_a_source_that_is_no_uri_reference_is_refused(source: Any) -> None:
    with pytest.raises(ValueError, match="must be a URI or a path, such as '/billing'"):
        Serializer(source)


@pytest.mark.parametrize(
    "source",
    [
        "/billing",
        "billing",
        "gr%C3%B6%C3%9Fe",
        "https://user:pw@example.org:80/a?b=c:d#e",
        "https://[2001:db8::1]:80/a",
        "//[::1]",
        "urn:uuid:0190a3c4-5b6d-7e8f-9a0b-1c2d3e4f5a6b",
        "mailto:a@example.org",
        "./a:b",
        "#fragment",
        "?query",
    ],
)
def test_a_source_is_a_uri_reference(source: str) -> None:
    headers = Serializer(source).encode("users", Ping()).headers
    assert attribute(headers, "source") == source


# --- decode: headers, body, both ----------------------------------------------------------------

FLAT = {"type": "user.deleted", "version": 1, "name": "x"}
SAYS = {"ce-type": "user.deleted", "ce-eventversion": "1"}


def test_what_was_encoded_is_decoded() -> None:
    for event in (Registered("a"), Deleted("b"), Ping(), Odd("1.0", "a", "b", {"c": 1})):
        message = serializer.encode("users", event)
        assert decoder.decode(delivered(message)) == event
        bare = Delivery("users", "me", "1", message.body, {})
        if not isinstance(event, Odd):  # which is an envelope, where no header says what it is
            assert decoder.decode(bare) == event


def test_a_cloudevent_without_data_is_an_event_without_fields() -> None:
    assert decoder.decode(delivery(b"", {"ce-type": "ping"})) == Ping()
    without: list[dict[str, Any]] = [{}, {"data": None}, {"data": {}}]
    for data in without:
        envelope = {"specversion": "1.0", "id": "1", "source": "/a", "type": "ping", **data}
        assert decoder.decode(delivery(envelope, {})) == Ping()


@pytest.mark.parametrize("version", [1, 7, "1", "v2"])
def test_an_envelope_with_an_extension_called_version_is_one(version: object) -> None:
    envelope = {"specversion": "1.0", "id": "1", "source": "/a", "type": "user.deleted"}
    body = envelope | {"version": version, "data": {"name": "x"}}
    assert decoder.decode(delivery(body, {})) == Deleted("x")


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (FLAT, {}),
        (FLAT, SAYS),
        (FLAT, {"ce-type": "user.deleted"}),
        (FLAT, {"ce-eventversion": "1"}),
        (FLAT, {"content-type": "text/plain", "x": "y"}),
        ({"name": "x", "version": 1, "type": "user.deleted"}, SAYS),
        ({"name": "x"}, SAYS),
        ({"name": "x"}, {"ce-type": "user.deleted"}),
        ({"name": "x", "type": "express"}, SAYS),
        ({"name": "x", "type": "express", "version": "2.1"}, SAYS),
        ({"name": "x"}, {"ce-type": "user%2Edeleted", "ce-eventversion": '"1"'}),
        ({"name": "x"}, {"ce-type": '"user.deleted"', "ce-eventversion": "1"}),
    ],
)
def test_headers_or_body_say_what_it_is(body: object, headers: dict[str, str]) -> None:
    assert decoder.decode(delivery(body, headers)) == Deleted("x")


def test_unknown_fields_are_ignored() -> None:
    assert decoder.decode(delivery(FLAT | {"new": [1]})) == Deleted("x")


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"type": "other", "version": 1}, {}),
        ({"type": "other"}, {}),
        ({"type": "other", "version": "x"}, {}),
        (FLAT, {"ce-type": "other", "ce-eventversion": "1"}),
        (FLAT, {"ce-type": "other"}),
        (b"\xff", {"ce-type": "other"}),
        (b"", {"ce-type": "other"}),
    ],
)
def test_a_type_that_is_not_wanted_is_skipped(body: object, headers: dict[str, str]) -> None:
    assert decoder.decode(delivery(body, headers)) is None


def test_an_older_version_is_upcast_whoever_says_it() -> None:
    flat = {"type": "user.registered", "version": 1, "mail": "a"}
    says = {"ce-type": "user.registered", "ce-eventversion": "1"}
    assert decoder.decode(delivery(flat)) == Registered("a")
    assert decoder.decode(delivery(flat, says)) == Registered("a")
    assert decoder.decode(delivery({"mail": "a"}, says)) == Registered("a")


@pytest.mark.parametrize("version", [2, 3, 10, 11])
def test_a_version_that_nothing_leads_from_is_unknown(version: int) -> None:
    for headers in ({}, {"ce-type": "user.deleted", "ce-eventversion": str(version)}):
        with pytest.raises(
            UnknownEventError, match=rf"version {version}: only older versions .*\(1\)"
        ):
            decoder.decode(delivery(FLAT | {"version": version}, headers))


@pytest.mark.parametrize(
    ("body", "headers", "text"),
    [
        (FLAT, SAYS | {"ce-eventversion": "2"}, "its headers say 'user.deleted' version 2, its body says 'user.deleted' version 1"),
        ({"type": "ping", "version": 1}, SAYS, "its headers say 'user.deleted' version 1, its body says 'ping' version 1"),
        ({"name": "x", "type": "express", "version": 3}, {"ce-type": "user.deleted"}, "its headers say 'user.deleted', its body says 'express' version 3"),
        (b"", {}, r"it has no data, only an empty body: .*as the field `data`"),
        (b"", {"ce-type": "user.registered"}, "it has no data, only an empty body"),
        ({"specversion": "1.0", "type": "user.deleted", "source": "/a", "data": {}}, {}, "it is not a valid CloudEvents envelope: it has no `id`: it must be a non-empty string"),
        ({"specversion": "1.0", "type": "user.deleted", "source": "/a", "id": 7, "version": 1, "data": {}}, {}, "its `id` is 7: it must be a non-empty string"),
        ({"specversion": "0.3", "type": "user.deleted", "source": "/a", "id": "7", "data": {}}, {}, "its `specversion` is '0.3': only 1.x is supported"),
        ({"specversion": "1.0", "type": "user.deleted", "source": "/a", "id": "7", "data_base64": "!"}, {}, "its `data_base64` is not base64"),
        ({"specversion": "1.0", "type": "user.deleted", "source": "/a", "id": "7", "x": []}, {}, r"its attribute `x` must be a string, a number or a boolean, not \[\]"),
        ({"specversion": "1.0", "type": "user.deleted", "source": "/a", "id": "7", "datacontenttype": "text/plain", "data": {}}, {}, "its `data` is not a string, as its `datacontenttype` 'text/plain' requires"),
        (FLAT, SAYS | {"ce-eventversion": "x"}, "its header ce-eventversion is 'x', not an integer"),
        (FLAT, SAYS | {"ce-eventversion": "1" * 5000}, "not an integer"),
        (FLAT, SAYS | {"ce-eventversion": "²"}, "is '²', not an integer"),
        ({"name": "x"}, {}, "neither its headers nor its body have a `type`"),
        ({"type": "ping"}, {}, "the `version` of 'ping' is None, not an integer"),
        ({"type": "ping", "version": True}, {}, "the `version` of 'ping' is True, not an integer"),
        ({"mail": "x"}, {"ce-type": "user.registered"}, r"it has no version of 'user.registered', and the versions \[2\] are known: have its producer set the attribute `eventversion`"),
    ],
)  # fmt: skip
def test_what_cannot_be_distinguished_is_malformed(
    body: Any, headers: dict[str, str], text: str
) -> None:
    with pytest.raises(MalformedEventError, match=text):
        decoder.decode(delivery(body, headers))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"nope", "JSON is malformed"),
        (b"\xef\xbb\xbf{}", "it begins with a byte order mark: send UTF-8 without one"),
        ("{}".encode("utf-16"), "it begins with a byte order mark"),
        (
            b"\x1f\x8b\x08",
            "it is compressed with gzip, but has no header that says so: send the header",
        ),
        (b"[]", "it is a JSON array, such as a batch of CloudEvents: send each event as a message"),
        (b"3", "Expected `object`, got `int`"),
        (b"{} {}", "trailing characters"),
        (b'{"type":"ping","version":1e400}', "Number out of range"),
        (b'{"type":"ping","version":' + b"1" * 10_000 + b"}", "Integer value out of range"),
        (b'{"type":"\xff","version":1}', "it is not UTF-8"),
        (
            b'{"type":"\\ud800","version":1}',
            "it has a lone surrogate, half of a character, at byte 9",
        ),
        (b'{"type":"\\ud83d\\ude00\\ude00","version":1}', "a lone surrogate, .* at byte 21"),
        (b'{"type":"\\\\ud800', "truncated"),
        # How deep is too deep is for the stack's size to say, from Python 3.14 on.
        (b'{"x":' + b"[" * 1_000_000, "it is nested too deeply"),
        (b'{"x":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}", "it is nested too deeply"),
        (b'{"x":NaN,"type":"ping","version":1}', "JSON is malformed"),
    ],
    ids=range(16),
)
def test_bytes_that_are_no_event_are_malformed(body: bytes, text: str) -> None:
    for headers in ({}, {"ce-type": "ping"}, {"ce-type": "ping", "ce-eventversion": "1"}):
        with pytest.raises(MalformedEventError, match=text):
            decoder.decode(delivery(body, headers))


def test_a_beginning_like_ours_is_no_proof() -> None:
    for body in (
        b'{"type":"user.deleted","version":1,',
        b'{"type":"user.deleted","version":1,"name":"\xff"}',
    ):
        with pytest.raises(MalformedEventError):
            decoder.decode(delivery(body, SAYS))


def test_a_wrong_field_names_its_path() -> None:
    with pytest.raises(InvalidEventError, match=r"Deleted at \$\.name: Expected `str`, got `int`"):
        decoder.decode(delivery(FLAT | {"name": 3}))


def test_a_decoder_prepares_its_classes() -> None:
    class Unfit(Event):
        type = "unfit"
        version = 1
        name: str

    with pytest.raises(EventDefinitionError, match="add `@dataclass`"):
        EventDecoder([Ping, Unfit])
    with pytest.raises(EventDefinitionError, match="it is abstract"):
        EventDecoder([Event])


def test_a_decoder_tells_its_types() -> None:
    assert EventDecoder([Registered, Deleted]).types == {"user.registered", "user.deleted"}
    assert EventDecoder([]).decode(delivery(FLAT)) is None


def test_time_of_two_messages_is_not_the_same() -> None:
    first = serializer.encode("t", Ping()).headers["ce-time"]
    time.sleep(0.001)
    assert first < serializer.encode("t", Ping()).headers["ce-time"]
