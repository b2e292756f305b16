"""AsyncAPI documents that others wrote, read for what we consume."""

from __future__ import annotations

import builtins
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from events.contracts import PII, Service
from events.contracts.against import check_against
from events.contracts.asyncapi import document
from events.contracts.catalog.model import catalog_of
from events.contracts.foreign import read_contracts, to_yaml
from events.contracts.lock import LockFileError, dumps, lock_of
from events.errors import MissingExtraError
from events.integration import (
    Consumer,
    EventRegistry,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    Topic,
)

THEIRS = """\
asyncapi: 3.0.0
info:
  title: Lights
  version: 2020-01-01
channels:
  lit:
    address: lights
    messages:
      lit:
        $ref: common.yaml#/messages/lit
operations:
  onLit:
    action: send
    channel:
      $ref: '#/channels/lit'
"""
COMMON = """\
messages:
  lit:
    name: light.lit
    payload:
      type: object
      required: [lumens]
      properties:
        lumens: {type: integer, minimum: 0}
        place: {$ref: '#/schemas/place'}
        next: {$ref: '#/schemas/lamp'}
    examples:
      - payload: {lumens: 3, place: 2020-01-01}
schemas:
  place: {type: [string, 'null']}
  lamp: {type: object, properties: {next: {$ref: '#/schemas/lamp'}}}
"""


class Eyes(Consumer):
    async def on_event(self, event: IntegrationEvent) -> None: ...


def reads(**fields: Any) -> Service:
    class Base(IntegrationEvent, abstract=True):
        registry = EventRegistry()

    body = {"type": "light.lit", "version": 1, "__annotations__": fields}
    lit: Any = dataclass(type("LightLitV1", (Base,), body))
    return Service("eyes", [IntegrationEventBusRegistration(Eyes("eyes"), Topic("lights"), [lit])])


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    path = tmp_path / "theirs.yaml"
    path.write_text(THEIRS)
    (tmp_path / "common.yaml").write_text(COMMON)
    return path


def findings(service: Service, theirs: Path) -> list[str]:
    verdicts = check_against(service, read_contracts(theirs))
    return [each.message for verdict in verdicts for each in verdict.findings]


def test_what_they_send_is_read(theirs: Path) -> None:
    lock = read_contracts(theirs)

    assert lock["service"] == {"name": "Lights"}
    assert lock["sends"] == {"lights": {"light.lit": [1]}}
    example = lock["events"]["light.lit"]["1"]["example"]
    assert example == {"type": "light.lit", "version": 1, "lumens": 3, "place": "2020-01-01"}
    assert findings(reads(lumens=int), theirs) == []


def test_what_we_cannot_read_is_found(theirs: Path) -> None:
    (message,) = findings(reads(lumens=int, place=str), theirs)
    assert message.startswith("LightLitV1 at $")
    assert message.endswith("(sent by Lights)")
    assert findings(reads(lumens=str), theirs)


@pytest.mark.parametrize(
    ("address", "found"),
    [("{what}", True), ("li{a}{b}", True), ("lights/{id}", False), ("l.ghts", False)],
)
def test_an_address_may_have_parameters(theirs: Path, address: str, found: bool) -> None:
    theirs.write_text(THEIRS.replace("address: lights", f"address: '{address}'"))

    assert bool(findings(reads(lumens=str), theirs)) is found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("asyncapi: 2.6.0", "has AsyncAPI version 2.6.0, and 3.0 or newer is needed"),
        ("a: b", "it has no member `asyncapi`"),
        ("- a", "is neither a lock file nor an AsyncAPI document"),
        ("a: [", "is not YAML"),
        (
            THEIRS.replace("common.yaml#/messages/lit", "'#/nowhere'"),
            "refers to '/nowhere', which does not exist",
        ),
        (THEIRS.replace("common.yaml#", "gone.yaml#"), "refers to .*gone.yaml"),
        (
            THEIRS.replace("common.yaml#", "'https://a.example/b#'").replace(
                "'/messages/lit", "/messages/lit'"
            ),
            "is on another machine",
        ),
        (
            THEIRS.replace("common.yaml#/messages/lit", "'#/channels/lit/messages/lit'"),
            "refers to itself",
        ),
    ],
)
def test_a_document_that_cannot_be_read_is_said(theirs: Path, text: str, reason: str) -> None:
    theirs.write_text(text)

    with pytest.raises(LockFileError, match=reason):
        read_contracts(theirs)


def test_a_payload_in_another_format_is_said(theirs: Path) -> None:
    avro = "payload: {schemaFormat: application/vnd.apache.avro;version=1.9.0, schema: {}}"
    (theirs.parent / "common.yaml").write_text(f"messages: {{lit: {{{avro}}}}}")

    with pytest.raises(
        LockFileError, match=r"message 'lit' has format application/vnd.apache.avro"
    ):
        read_contracts(theirs)


def test_a_lock_file_is_read_too(tmp_path: Path) -> None:
    lock = lock_of(reads(lumens=int))
    path = tmp_path / "a.lock.json"
    path.write_text(dumps(lock))

    assert read_contracts(path) == lock


def test_json_needs_no_extra_and_yaml_names_it(
    theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "yaml":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"integration-events\[asyncapi\]"):
        read_contracts(theirs)
    with pytest.raises(MissingExtraError, match=r"integration-events\[asyncapi\]"):
        to_yaml({})
    path = theirs.with_suffix(".json")
    path.write_text(json.dumps({"asyncapi": "3.1.0"}))
    assert read_contracts(path)["sends"] == {}


class Cat(msgspec.Struct, tag="cat"):
    lives: int


class Dog(msgspec.Struct, tag="dog"):
    name: str


class Owner(msgspec.Struct):
    name: Annotated[str, PII]


def test_our_own_document_says_what_our_lock_does(tmp_path: Path) -> None:
    owner = Annotated[Owner, msgspec.Meta(description="Whose it is.")]
    service = reads(pet=Cat | Dog, owner=owner)
    (registration,) = service.consumes
    lights = Service("lights", sends={registration.topic: [*registration.events]})
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(document(lock_of(lights))))
    theirs = read_contracts(path)
    assert findings(service, path) == []
    assert findings(reads(pet=Cat, owner=owner), path)

    path.write_text(json.dumps(document(lock_of(service))))
    assert findings(lights, path) == []
    (lit,) = registration.events
    (other,) = reads(pet=str, owner=owner).consumes[0].events
    assert findings(Service("lights", sends={registration.topic: [lit]}), path) == []
    assert findings(Service("lights", sends={registration.topic: [other]}), path)
    shown = catalog_of([theirs]).events["light.lit"].newest
    assert shown.example["owner"] == {"name": "***"}
    assert "owner.name" in {each.name for each in shown.fields}


@pytest.mark.parametrize(
    "place",
    [
        r"{type: string, pattern: '^\p{L}+$'}",
        "{type: number, minimum: 0, exclusiveMinimum: 0}",
        "{oneOf: [{$ref: '#/schemas/lamp'}, {type: 'null'}], discriminator: kind}",
        "true",
        "false",
        "{$ref: '#/schemas/anything'}",
        "{oneOf: [true, false]}",
        "{allOf: [true, {type: string}]}",
        "{type: array, items: [true, false]}",
        "{type: object, properties: {properties: true, anyOf: false, a: {type: string}}}",
        "{type: object, additionalProperties: false, default: {$ref: 1, properties: {a: true}}}",
    ],
)
def test_a_schema_that_only_others_know_is_no_fault(theirs: Path, place: str) -> None:
    common = theirs.parent / "common.yaml"
    common.write_text(COMMON.replace("{type: [string, 'null']}", place) + "  anything: true\n")
    service = reads(lumens=Annotated[int, msgspec.Meta(ge=0)])
    assert findings(service, theirs) == []
    assert catalog_of([read_contracts(theirs)]).events["light.lit"].newest.fields
    theirs.write_text(THEIRS.replace("action: send", "action: receive"))
    (registration,) = service.consumes
    sends = {registration.topic: [*registration.events]}
    assert findings(Service("lights", sends=sends), theirs) == []


@pytest.mark.parametrize(
    ("payload", "allowed"),
    [("true", True), ("false", False), ("{$ref: '#/schemas/whole'}", True)],
)
def test_a_payload_may_be_anything_or_nothing(theirs: Path, payload: str, allowed: bool) -> None:
    common = f"messages: {{lit: {{name: light.lit, payload: {payload}, headers: true}}}}\n"
    (theirs.parent / "common.yaml").write_text(common + "schemas: {whole: true}\n")
    described = read_contracts(theirs)["events"]["light.lit"]["1"]
    assert ("example" in described) is allowed
    assert findings(reads(), theirs) == []
