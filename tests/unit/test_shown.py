"""What the page makes of texts and bodies that nobody would write in good faith."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, TypedDict
from urllib.parse import quote

import msgspec
import pytest

from events.contracts.catalog.model import without_personal
from events.integration import PII, DeadLetter, EventRegistry, IntegrationEvent, Message
from events.operations.shown import Letter, Shown, visible


@dataclass(frozen=True)
class Person:
    name: Annotated[str, PII]
    town: str
    friend: Person | None = None


@dataclass(frozen=True)
class Moved(IntegrationEvent):
    type = "shown.moved"
    version = 1
    who: Person
    letters: list[Annotated[str, PII]]
    number: int


def shown(body: bytes, *, reason: str = "unretryable", error: str = "", **headers: str) -> Letter:
    message = Message("t", "shown.moved", "1", body, {"ce-eventversion": "1", **headers}, "key")
    letter = DeadLetter("1", "c", message, reason, error, 1, datetime.now(UTC))
    return Shown([Moved]).letter(letter, personal=False)


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ("plain", "plain"),
        ("Ärger 🎉", "Ärger 🎉"),
        ("a\nb\tc", "a\nb\tc"),
        ("\x00\x1b\x7f\x85", r"\x00\x1b\x7f\x85"),
        ("\u202e\u2066\u200f\u061c\ufeff\u200b", r"\u202e\u2066\u200f\u061c\ufeff\u200b"),
        ("\u2028\ud800\ue000", r"\u2028\ud800\ue000"),
    ],
)
def test_what_cannot_be_seen_is_an_escape(given: str, seen: str) -> None:
    assert visible(given) == seen


def test_personal_values_are_masked_wherever_they_are() -> None:
    body = (
        b'{"type": "shown.moved", "version": 1, "number": 7, "letters": ["dear Ada", "dear Bob"],'
        b' "who": {"name": "Ada Lovelace", "town": "London", "friend": {"name": "Charles"}},'
        b' "email": "new@field.example"}'
    )
    letter = shown(body, error="ValueError: no house for Ada Lovelace", note="of Ada Lovelace")
    everything = letter.body + letter.error + str(letter.headers)
    for secret in ("Ada", "Bob", "Charles", "new@field"):
        assert secret not in everything
    assert '"town": "London"' in letter.body
    assert '"number": 7' in letter.body
    assert letter.error == "ValueError: no house for ***"


@pytest.mark.parametrize(
    ("body", "options"),
    [
        (b"{", {}),
        (b'["Ada Lovelace"]', {}),
        (b"\xff\xfeAda Lovelace", {}),
        (b"[" * 100_000, {}),
        (b'{"version": 9, "who": "Ada Lovelace"}', {}),
        (b'{"version": 1, "who": "Ada Lovelace"}', {"reason": "undecodable"}),
    ],
)
def test_a_body_that_is_not_as_its_class_says_is_hidden(body: bytes, options: Any) -> None:
    letter = shown(body, note="of Ada Lovelace", **options)
    assert letter.hidden
    assert "Ada" not in letter.body + str(letter.headers)
    assert letter.key == "***"
    assert letter.headers["ce-eventversion"] == "1"


class Named(msgspec.Struct):
    name: str


def or_none(wanted: Any) -> Any:
    return wanted | None


class Noted(TypedDict):
    name: Annotated[str, PII]


@pytest.mark.parametrize(
    ("wanted", "value"),
    [
        (or_none(Annotated[list[str], PII]), ["Ada"]),
        (or_none(Annotated[dict[str, str], PII]), {"name": "Ada"}),
        (or_none(Annotated[Person, PII]), Person("Ada", "Ada")),
        (or_none(Annotated[Named, PII]), Named("Ada")),
        (list.__class_getitem__(or_none(Annotated[Named, PII])), [Named("Ada")]),
        (dict[Annotated[str, PII], int], {"Ada": 1}),
        (or_none(Noted), Noted(name="Ada")),
    ],
)
def test_what_may_be_missing_is_masked_too(wanted: Any, value: Any) -> None:
    class Base(IntegrationEvent, abstract=True):
        registry = EventRegistry()

    body = {"type": "shown.maybe", "version": 1, "__annotations__": {"held": wanted}}
    maybe: Any = dataclass(type("Maybe", (Base,), body))
    event = maybe(value)
    message = Message("t", "shown.maybe", "1", msgspec.json.encode(event.to_dict()), {})
    letter = DeadLetter("1", "c", message, "unretryable", "", 1, datetime.now(UTC))
    seen = Shown([maybe]).letter(letter, personal=False)
    assert "***" in seen.body
    assert "Ada" not in f"{seen.body} {event!r}"


@pytest.mark.parametrize("who", ["Ada", ["Ada"], [{"name": "Ada"}]])
def test_what_is_not_of_its_type_may_be_personal(who: Any) -> None:
    letter = shown(msgspec.json.encode({"version": 1, "who": who, "letters": "Ada", "number": 7}))
    assert "Ada" not in letter.body
    assert '"number": 7' in letter.body


def test_a_schema_in_parts_is_masked_in_all_of_them() -> None:
    personal = {"type": "object", "properties": {"name": {"type": "string", "x-pii": True}}}
    for name in ("allOf", "oneOf", "anyOf"):
        schema = {"description": "in parts", name: [personal]}
        assert without_personal({"name": "Ada"}, schema) == {"name": "***"}


def test_ids_that_no_link_can_have_are_mended() -> None:
    letter = shown(b"{}", **{"ce-correlationid": "\ud800x"})
    assert quote(letter.correlation_id) == "%3Fx"
