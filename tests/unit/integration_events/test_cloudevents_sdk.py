"""The `cloudevents` SDK as the judge: it reads what we write, and we read what it writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from cloudevents.core.bindings import http
from cloudevents.core.bindings.http import HTTPMessage
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from events.errors import MalformedEventError
from events.integration.cloudevents import to_structured, unwrapped
from events.integration.event import EventRegistry, IntegrationEvent
from events.integration.message import Delivery, Message
from events.integration.serialization import EventDecoder, Serializer


class Event(IntegrationEvent, abstract=True):
    registry = EventRegistry()


@dataclass
class Sold(Event):
    type = 'w\u00e4re "sold" 100%'
    version = 3
    name: str
    sizes: list[int]


@dataclass
class Priced(Event):
    type = "priced"
    version = 1
    name: str


@dataclass
class PricedV2(Event):
    type = "priced"
    version = 2
    name: str


decoder = EventDecoder([Sold])
form = JSONFormat()
printable = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1).filter(
    str.isprintable
)
sources = printable.map(quote)
sold = st.builds(Sold, st.text(st.characters(codec="utf-8")), st.lists(st.integers()))


def attributes_of(message: Message, source: str, key: str | None) -> dict[str, Any]:
    """What the SDK ought to find."""
    wanted = {
        "specversion": "1.0",
        "id": message.id,
        "source": source,
        "type": Sold.type,
        "time": datetime.fromisoformat(message.headers["ce-time"]),
        "datacontenttype": "application/json",
        "correlationid": message.id,
    }
    return wanted if key is None else wanted | {"partitionkey": key}


@given(sold, sources, st.none() | printable)
def test_the_sdk_reads_what_we_write(event: Sold, source: str, key: str | None) -> None:
    message = Serializer(source).encode("t", event, key=key)
    wanted = attributes_of(message, source, key)

    binary = http.from_binary(HTTPMessage(dict(message.headers), message.body), form, CloudEvent)
    assert binary.get_attributes() == wanted | {"eventversion": "3"}
    assert binary.get_data() == event.to_dict()

    structured = form.read(CloudEvent, to_structured(message))
    assert structured.get_attributes() == wanted | {"eventversion": 3}
    assert structured.get_data() == event.to_dict()


@given(
    sold,
    st.fixed_dictionaries(
        {"id": printable, "source": printable},
        optional={"subject": printable, "eventversion": st.just("3"), "partitionkey": printable},
    ),
    st.booleans(),
)
def test_we_read_what_the_sdk_writes(
    event: Sold,
    attributes: dict[str, Any],
    whole: bool,
) -> None:
    attributes |= {"type": Sold.type, "specversion": "1.0", "time": datetime.now(UTC)}
    attributes |= {"datacontenttype": "application/json"}
    data = event.to_dict() if whole else {"name": event.name, "sizes": event.sizes}
    made = CloudEvent(attributes, data)
    for written in (http.to_binary(made, form), http.to_structured(made, form)):
        body = written.body if isinstance(written.body, bytes) else written.body.encode()
        headers = {name.lower(): value for name, value in written.headers.items()}
        delivery = unwrapped(Delivery("t", "c", "1", body, headers))
        assert decoder.decode(delivery) == event
        if "cloudevents" in headers["content-type"]:
            assert (delivery.id, delivery.key) == (attributes["id"], attributes.get("partitionkey"))
    bare = unwrapped(Delivery("t", "c", "1", form.write(made), {}), expected=True)
    assert decoder.decode(bare) == event


def test_bytes_of_the_sdk_are_read_from_base64() -> None:
    data = json.dumps({"name": "x", "sizes": []}).encode()
    made = CloudEvent({"id": "1", "source": "/a", "type": Sold.type, "specversion": "1.0"}, data)
    assert b"data_base64" in form.write(made)
    assert decoder.decode(Delivery("t", "c", "1", form.write(made), {})) == Sold("x", [])


def test_a_version_is_not_guessed_where_there_are_two() -> None:
    made = CloudEvent(
        {"id": "1", "source": "/a", "type": "priced", "specversion": "1.0"}, {"name": "x"}
    )
    for wanted in ([Priced], [PricedV2], [Priced, PricedV2]):
        with pytest.raises(MalformedEventError, match=r"\[1, 2\] are known: have its producer set"):
            EventDecoder(wanted).decode(Delivery("t", "c", "1", form.write(made), {}))
