from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from msgspec import Raw
from msgspec.json import encode as encode_json

from events.errors import InvalidEventError, UnknownEventError
from events.integration.event import EventRegistry, IntegrationEvent
from events.integration.message import Delivery
from events.integration.serialization import EventDecoder
from events.integration.upcasting import event_from_body, gaps


class Event(IntegrationEvent, abstract=True):
    registry = EventRegistry()


@dataclass
class V1(Event):
    type = "user.registered"
    version = 1
    name: str


@dataclass
class V2(Event):
    type = "user.registered"
    version = 2
    names: list[str]

    @classmethod
    def upcast(cls, payload: dict[str, Any]) -> dict[str, Any]:
        assert (payload["type"], payload["version"]) == ("user.registered", 1)
        return {"names": payload.pop("name").split()}


@dataclass
class V3(Event):
    type = "user.registered"
    version = 3
    first: str
    last: str

    @classmethod
    def upcast(cls, payload: dict[str, Any]) -> dict[str, Any]:
        assert (payload["type"], payload["version"]) == ("user.registered", 2)
        first, *rest = payload["names"]
        payload["names"].clear()
        return {**payload, "first": first, "last": " ".join(rest)}


ALL = [V1, V2, V3]


@pytest.fixture(autouse=True)
def _all_registered() -> Iterator[None]:
    for event_class in [*Event.registry.values()]:
        Event.registry.remove(event_class)
    for event_class in ALL:
        Event.registry.add(event_class)
    yield
    for event_class in [*Event.registry.values()]:
        Event.registry.remove(event_class)


def forget(*classes: type[Event]) -> None:
    for event_class in classes:
        Event.registry.remove(event_class)


def delivery(payload: object) -> Delivery:
    return Delivery("users", "me", "1", json.dumps(payload).encode(), {})


ONE = {"type": "user.registered", "version": 1, "name": "Ada Lovelace"}
TWO = {"type": "user.registered", "version": 2, "names": ["Ada", "Lovelace"]}


def test_an_exact_class_wins() -> None:
    assert Event.from_dict(ONE) == V1("Ada Lovelace")
    assert EventDecoder([V1, V3]).decode(delivery(ONE)) == V1("Ada Lovelace")


def test_a_concrete_class_upcasts_to_itself() -> None:
    assert V2.from_dict(ONE) == V2(["Ada", "Lovelace"])
    assert V3.from_dict(ONE) == V3.from_dict(TWO) == V3("Ada", "Lovelace")


def test_a_registration_receives_older_versions_through_a_chain() -> None:
    decoder = EventDecoder([V3])
    assert decoder.decode(delivery(ONE)) == V3("Ada", "Lovelace")
    assert decoder.decode(delivery(TWO)) == V3("Ada", "Lovelace")


def test_the_nearest_wanted_version_is_taken() -> None:
    assert EventDecoder([V2, V3]).decode(delivery(ONE)) == V2(["Ada", "Lovelace"])


def test_the_received_version_needs_no_class() -> None:
    forget(V1)
    assert Event.from_dict(ONE) == V2(["Ada", "Lovelace"])
    assert EventDecoder([V3]).decode(delivery(ONE)) == V3("Ada", "Lovelace")


def test_the_payload_is_not_changed() -> None:
    for payload in (ONE, TWO):
        before = copy.deepcopy(payload)
        V3.from_dict(payload)
        assert payload == before


def test_no_class_downcasts() -> None:
    text = "unknown event 'user.registered' version 2: only older versions are known here \\(1\\)"
    with pytest.raises(UnknownEventError, match=text):
        V1.from_dict(TWO)
    with pytest.raises(UnknownEventError, match=text):
        EventDecoder([V1]).decode(delivery(TWO))


def test_a_chain_with_a_class_missing_says_which() -> None:
    forget(V1, V2)
    text = (
        "version 1: it cannot be upcast to version 3, no upcaster leads from 1 to 2: define a "
        "class for version 2 with an `upcast` classmethod, or register version 1 as well"
    )
    with pytest.raises(UnknownEventError, match=text):
        V3.from_dict(ONE)


def test_a_chain_with_an_upcaster_missing_says_where() -> None:
    @dataclass
    class V4(Event):
        type = "user.registered"
        version = 4
        first: str

    text = "no upcaster leads from 3 to 4: .*V4: give it an `upcast` classmethod"
    with pytest.raises(UnknownEventError, match=text):
        V4.from_dict(ONE)


def test_an_inherited_upcaster_is_the_parents() -> None:
    @dataclass
    class V4(V3):
        version = 4

    with pytest.raises(UnknownEventError, match="no upcaster leads from 3 to 4"):
        V4.from_dict(ONE)


@pytest.mark.parametrize("version", [-(10**30), -1, 0, 10**30])
def test_a_strange_version_is_unknown_at_once(version: int) -> None:
    with pytest.raises(UnknownEventError, match="user.registered"):
        V3.from_dict({**ONE, "version": version})
    with pytest.raises(UnknownEventError, match="user.registered"):
        EventDecoder([V3]).decode(delivery({**ONE, "version": version}))


def test_an_upcaster_that_raises_is_an_invalid_event() -> None:
    with pytest.raises(InvalidEventError) as caught:
        V3.from_dict({"type": "user.registered", "version": 1})
    assert str(caught.value) == "V2 at $: upcasting it from version 1 raised KeyError('name')"
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_upcaster_that_returns_nothing_is_an_invalid_event() -> None:
    @dataclass
    class V4(Event):
        type = "user.registered"
        version = 4

        @classmethod
        def upcast(cls, payload: dict[str, Any]) -> dict[str, Any]:
            payload["x"] = 1
            return None  # type: ignore[return-value]

    with pytest.raises(
        InvalidEventError, match="V4 at \\$: its `upcast` returned None: return the"
    ):
        V4.from_dict(TWO)


def test_what_an_upcaster_makes_is_validated() -> None:
    with pytest.raises(InvalidEventError, match=r"V3 at \$\.first: Expected `str`, got `int`"):
        V3.from_dict({**TWO, "names": [1, "x"]})


# --- gaps -------------------------------------------------------------------------------------


def test_a_whole_chain_has_no_gap() -> None:
    assert gaps([V3]) == []
    assert gaps([V1, V2, V3]) == []
    assert gaps([]) == []


def test_a_version_that_no_chain_leads_from_is_a_gap() -> None:
    class V4(Event):
        type = "user.registered"
        version = 4

    found = gaps([V4])
    assert [text.partition(":")[0] for text in found] == [
        "unknown event 'user.registered' version 1",
        "unknown event 'user.registered' version 2",
        "unknown event 'user.registered' version 3",
    ]
    assert "V4: give it an `upcast` classmethod, or register version 3 as well" in found[2]


def test_a_version_that_the_registration_names_is_no_gap() -> None:
    class V4(Event):
        type = "user.registered"
        version = 4

    assert gaps([V4, V3]) == []
    assert len(gaps([V4, V1])) == 2


def test_a_version_that_an_upcaster_leads_from_is_known() -> None:
    class V4(Event):
        type = "user.registered"
        version = 4

    forget(V1, V3)
    assert [text.partition(":")[0][-1] for text in gaps([V4])] == ["1", "2"]


def test_newer_versions_are_no_gap() -> None:
    assert gaps([V1]) == []


def test_types_are_looked_at_apart() -> None:
    class Other(Event):
        type = "other"
        version = 2

    assert gaps([Other, V3]) == []


# --- numbers keep their digits ----------------------------------------------------------------


@dataclass
class Paid(Event):
    type = "paid"
    version = 2
    amount: Decimal
    rate: float = 0.0
    anything: Any = None
    amounts: list[Decimal] = field(default_factory=list)

    @classmethod
    def upcast(cls, payload: dict[str, Any]) -> dict[str, Any]:
        assert isinstance(payload["amount"], (int, float))
        return {**payload, "rate": payload["rate"] * 2}


LONG = "1234567890123456.78"


@pytest.mark.parametrize("number", [LONG, "0.1", "12345678901234567890", "1e400", "-1.10"])
@pytest.mark.parametrize("version", [1, 2])
def test_a_decimal_keeps_its_digits_through_an_upcaster(version: int, number: str) -> None:
    Event.registry.add(Paid)
    body = (
        f'{{"type":"paid","version":{version},"amount":{number},"rate":0.25,"anything":[0.5],'
        f'"amounts":[{number},1]}}'
    ).encode()
    rate = 0.5 if version == 1 else 0.25
    paid = Paid(Decimal(number), rate, [0.5], [Decimal(number), Decimal(1)])
    received = EventDecoder([Paid]).decode(Delivery("t", "me", "1", body, {}))
    assert received == paid
    assert event_from_body(Event, body) == paid
    envelope = {"specversion": "1.0", "id": "1", "source": "/x", "type": "paid", "data": Raw(body)}
    structured = Delivery(
        "t", "me", "1", encode_json(envelope | {"eventversion": str(version)}), {}
    )
    assert EventDecoder([Paid]).decode(structured) == paid


@pytest.mark.parametrize("kept", [LONG, "1e400"])
def test_a_number_too_long_for_a_float_is_one_where_the_class_says_so(kept: str) -> None:
    Event.registry.add(Paid)
    body = f'{{"type":"paid","version":1,"amount":1,"rate":1,"anything":{kept}}}'.encode()
    decode = EventDecoder([Paid]).decode
    if kept == LONG:
        event = decode(Delivery("t", "me", "1", body, {}))
        assert isinstance(event, Paid)
        assert type(event.anything) is float
        assert event.anything == float(LONG)
    else:
        with pytest.raises(InvalidEventError, match=r"Number out of range"):
            decode(Delivery("t", "me", "1", body, {}))
