"""What the page makes of texts and bodies that nobody would write in good faith."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import quote

import pytest

from events.integration import PII, DeadLetter, IntegrationEvent, Message
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


def test_ids_that_no_link_can_have_are_mended() -> None:
    letter = shown(b"{}", **{"ce-correlationid": "\ud800x"})
    assert quote(letter.correlation_id) == "%3Fx"
