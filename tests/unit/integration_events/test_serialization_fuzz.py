"""Whatever arrives: an event, None, or an error of ours, and soon."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from events.errors import EventDecodeError
from events.integration.cloudevents import attribute, from_structured, to_structured, unwrapped
from events.integration.event import EventRegistry, IntegrationEvent
from events.integration.message import Delivery, Message
from events.integration.serialization import EventDecoder


class Event(IntegrationEvent, abstract=True):
    registry = EventRegistry()


@dataclass
class Order(Event):
    type = "order"
    version = 2
    total: float
    lines: list[dict[str, int]]
    more: Any = None

    @classmethod
    def upcast(cls, payload: dict[str, Any]) -> dict[str, Any]:
        return {**payload, "lines": [{}], "total": payload["sum"]}


FUZZ = settings(max_examples=300, deadline=60_000)

decoder = EventDecoder([Order])

# Words that lead deep into the decoder, rather than off at its first look.
words = st.sampled_from(
    [
        "type",
        "version",
        "order",
        "1",
        "2",
        "1.0",
        "specversion",
        "id",
        "source",
        "data",
        "total",
        "data_base64",
        "datacontenttype",
        "eventversion",
        "eventheaders",
        "lines",
        "sum",
        "%FF",
        "application/json",
        "application/cloudevents+json",
        "{}",
        "e30=",
        '"',
        '"\\',
        "%",
        "�",
        "",
    ]
)
text = words | st.text(max_size=5)
names = text | st.sampled_from(
    ["ce-type", "ce-eventversion", "ce-id", "content-type", "ce-specversion", "ce-partitionkey"]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text | st.integers(10**30, 10**40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=6),
)
envelopes = st.fixed_dictionaries(
    {
        "specversion": st.just("1.0") | json_values,
        "id": text,
        "source": text,
        "type": st.just("order") | text,
        "data": json_values,
    },
    optional={
        "eventversion": st.sampled_from([1, 2, "2", None]) | json_values,
        "version": st.integers(0, 3),
        "data_base64": text,
        "datacontenttype": text | st.none(),
        "eventheaders": text | json_values,
        "partitionkey": json_values,
    },
)
flat = st.fixed_dictionaries(
    {"type": st.just("order"), "version": st.integers(0, 4) | json_values},
    optional={"total": json_values, "lines": json_values, "more": json_values, "sum": json_values},
)


def dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode()


def doubled(pairs: list[tuple[str, Any]]) -> bytes:
    return b"{" + b",".join(dumped(key) + b":" + dumped(value) for key, value in pairs) + b"}"


bodies = (
    st.binary(max_size=60)
    | (json_values | envelopes | flat).map(dumped)
    | st.lists(st.tuples(text, json_values), max_size=8).map(doubled)
    | st.builds(
        lambda body, at, junk: body[:at] + junk + body[at:],
        (envelopes | flat).map(dumped),
        st.integers(0, 200),
        st.sampled_from(
            [b"\xff", b"NaN", b"1e400", b"9" * 5000, b"[" * 100_000, b"\\ud800", b",", b""]
        ),
    )
)
headers = st.dictionaries(names, text, max_size=6)


@FUZZ
@given(bodies, headers)
def test_decode_gives_an_event_or_none_or_raises_ours(body: bytes, headers: dict[str, str]) -> None:
    for expected in (False, True):
        delivery = unwrapped(Delivery("t", "c", "1", body, headers), expected=expected)
        assert isinstance(delivery.id, str)
        assert isinstance(delivery.body, bytes)
        assert delivery.key is None or isinstance(delivery.key, str)
        for name, value in delivery.headers.items():
            assert isinstance(name, str)
            assert isinstance(value, str)
        with suppress(EventDecodeError):
            event = decoder.decode(delivery)
            assert event is None or type(event) is Order


@FUZZ
@given(bodies)
def test_any_payload_gives_an_event_or_raises_ours(body: bytes) -> None:
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        return
    with suppress(EventDecodeError):
        assert type(Event.from_dict(payload)) is Order


given_headers = st.dictionaries(
    st.sampled_from(
        [
            "x-a",
            "traceparent",
            "content-type",
            "ce-type",
            "ce-source",
            "ce-q",
            "ce-data",
            "ce-version",
            "ce-eventversion",
            "ce-eventheaders",
            "ce-specversion",
            "ce-my_attr",
            "ce-datacontenttype",
        ]
    ),
    words.filter(lambda word: word.isprintable()),
    max_size=6,
)


@FUZZ
@given(bodies, given_headers)
def test_any_message_survives_an_envelope(body: bytes, headers: dict[str, str]) -> None:
    message = Message("t", "order", "1", body, headers, "k")
    envelope = from_structured(to_structured(message))
    assert envelope.body == body
    assert (envelope.id, envelope.key) == ("1", "k")
    for name, value in headers.items():
        if name in {"ce-specversion", "ce-id"} or not value:
            continue
        read = attribute(envelope.headers, name[3:]) if name.startswith("ce-") else None
        said = attribute(headers, name[3:]) if name.startswith("ce-") else None
        assert envelope.headers[name] == value or read == said or not said
