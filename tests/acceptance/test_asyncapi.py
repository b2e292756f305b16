"""Our AsyncAPI documents are valid by the official schema, and to the official parser.

The schema is a file of the npm package `@asyncapi/specs`, which the parser brings along.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import jsonschema
import msgspec
import pytest

from events.contracts import Service
from events.contracts.asyncapi import document
from events.contracts.foreign import contracts_of
from events.contracts.lock import lock_of
from events.integration import (
    PII,
    Consumer,
    EventRegistry,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    Topic,
)
from tests.acceptance.node import node_with

PACKAGES = Path(__file__).parent / "asyncapi"
FOLDER = Path(__file__).parents[2] / "build" / "asyncapi"
SERVERS = [
    "amqp://guest:secret@broker:5672/shop",
    "nats://token@nats:4222",
    "redis://:secret@cache:6379/1",
    "rediss://cache:6380",
    "kafka://kafka:9092",
]


class Base(IntegrationEvent, abstract=True):
    registry = EventRegistry()


class Colour(Enum):
    """What it is painted in."""

    RED = "red"
    BLUE = "blue"


class Point(NamedTuple):
    x: float
    y: float = 0.0


class Cat(msgspec.Struct, tag="cat"):
    lives: int = 9


class Dog(msgspec.Struct, tag="dog"):
    name: str


def other_address() -> type:
    @dataclass
    class Address:
        """Where bits go."""

        url: str

    return Address


@dataclass
class Address:
    """Where parcels go."""

    city: str
    since: time


@dataclass
class Node:
    name: str
    children: list[Node] = field(default_factory=list["Node"])


@dataclass
class EverythingV1(Base):
    """Everything that an event can hold.

    It has a second paragraph.
    """

    type = "every/thing"
    version = 1
    text: Annotated[str, PII, msgspec.Meta(min_length=1, description="What it says.")]
    number: Annotated[int, msgspec.Meta(ge=0)]
    ratio: float
    when: datetime
    day: date
    lasts: timedelta
    price: Decimal
    id: UUID
    data: bytes
    colour: Colour
    kind: Literal["a", "b"]
    address: Address
    tree: Node
    pet: Cat | Dog
    point: Point
    pair: tuple[int, datetime]
    maybe: datetime | None
    anything: Any
    by_id: dict[UUID, datetime]
    by_number: dict[int, str]
    tags: set[str]
    note: str = ""
    other: Colour = Colour.RED


@dataclass
class EverythingV2(Base):
    type = "every/thing"
    version = 2
    address: other_address()  # type: ignore[valid-type]

    @classmethod
    def upcast(cls, payload: dict[str, Any]) -> dict[str, Any]:
        return {"address": {"url": payload["text"]}}


@dataclass
class Empty(Base):
    type = "empty"
    version = 1


class Audit(Consumer):
    async def on_event(self, event: IntegrationEvent) -> None: ...


THINGS = Topic("things@home")
SERVICE = Service(
    "shop",
    [IntegrationEventBusRegistration(Audit("audit log"), THINGS, [EverythingV2, Empty])],
    sends={THINGS: [EverythingV1, EverythingV2], Topic("things home"): [Empty]},
    owner="checkout",
    description="Sells things.",
    servers=SERVERS,
    deprecated={EverythingV1: "use version 2"},
)
DOCUMENT = document(lock_of(SERVICE), servers=SERVERS)


@pytest.fixture(scope="module")
def node() -> str:
    return node_with(PACKAGES, FOLDER, "AsyncAPI documents are not validated")


def diagnoses(node: str, made: object) -> list[dict[str, Any]]:
    shutil.copy(PACKAGES / "diagnose.mjs", FOLDER)
    done = subprocess.run(
        [node, "diagnose.mjs"],
        cwd=FOLDER,
        input=json.dumps(made),
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def variants() -> dict[str, dict[str, Any]]:
    lock = lock_of(SERVICE)
    return {
        "all": DOCUMENT,
        "no servers": document(lock),
        **{url.partition(":")[0]: document(lock, servers=[url]) for url in SERVERS},
    }


@pytest.mark.parametrize("name", variants())
def test_it_is_valid_by_the_official_schema(node: str, name: str) -> None:
    path = FOLDER / "node_modules" / "@asyncapi" / "specs" / "schemas" / "3.1.0-without-$id.json"
    schema = json.loads(path.read_text())
    validator = jsonschema.Draft7Validator(schema)

    assert [error.message for error in validator.iter_errors(variants()[name])] == []
    wrong = {**DOCUMENT, "channels": {"a b": 1}}
    assert list(validator.iter_errors(wrong))


def test_the_parser_has_nothing_to_say(node: str) -> None:
    assert diagnoses(node, DOCUMENT) == []
    broken = json.loads(json.dumps(DOCUMENT))
    del broken["components"]["messages"]["every_thing.v1"]
    assert diagnoses(node, broken)


def test_examples_are_valid_by_their_payloads() -> None:
    for name, message in DOCUMENT["components"]["messages"].items():
        schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
        (example,) = message["examples"]
        jsonschema.Draft7Validator(schema).validate(example["payload"])


def test_what_the_document_says() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    fields = schemas["every_thing.v1"]["properties"]
    assert fields["when"] == {"type": "string", "format": "date-time", "x-timezone": "optional"}
    assert fields["maybe"]["anyOf"][0]["format"] == "date-time"
    assert fields["pair"]["items"][1]["format"] == "date-time"
    assert fields["by_id"]["additionalProperties"]["format"] == "date-time"
    assert fields["by_id"]["propertyNames"] == {"format": "uuid"}
    assert schemas["every_thing.v1.Address"]["properties"]["since"]["format"] == "time"
    assert schemas["every_thing.v2.Address"]["description"] == "Where bits go."
    assert schemas["Colour"]["description"] == "What it is painted in."
    assert schemas["every_thing.v1"]["deprecated"] is True
    assert fields["text"]["description"] == "What it says."
    assert fields["text"]["x-pii"] is True

    message = DOCUMENT["components"]["messages"]["every_thing.v1"]
    assert (message["name"], message["deprecated"]) == ("every/thing", True)
    assert message["summary"] == "Everything that an event can hold."
    assert message["headers"]["properties"]["ce-eventversion"] == {"const": "1"}

    channels = DOCUMENT["channels"]
    assert {key: each["address"] for key, each in channels.items()} == {
        "things_home": "things home",
        "things_home-2": "things@home",
    }
    assert channels["things_home-2"]["bindings"]["amqp"]["exchange"]["name"] == "things@home"
    receive = DOCUMENT["operations"]["receive.audit_log.things_home"]
    assert receive["bindings"]["nats"]["queue"] == "audit log"
    assert {each["$ref"].rpartition("/")[2] for each in receive["messages"]} == {
        "empty.v1",
        "every_thing.v1",  # by its upcaster
        "every_thing.v2",
    }
    assert "secret" not in json.dumps(DOCUMENT)
    assert "token" not in json.dumps(DOCUMENT)
    assert DOCUMENT["servers"]["amqp"] == {
        "host": "broker:5672",
        "protocol": "amqp",
        "pathname": "/shop",
        "description": "amqp://guest:***@broker:5672/shop",
    }


def test_our_own_document_reads_back_as_the_lock() -> None:
    lock, read = lock_of(SERVICE), contracts_of(DOCUMENT, Path("asyncapi.json"))

    assert read["sends"] == lock["sends"]
    assert {
        name: {t: {e: set(v) for e, v in of.items()} for t, of in topics.items()}
        for name, topics in read["consumers"].items()
    } == {"audit log": {"things@home": {"every/thing": {"1", "2"}, "empty": {"1"}}}}
    assert read["service"]["name"] == "shop"
