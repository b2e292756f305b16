"""Texts of events and errors for pages: escaped, readable, and without personal data."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, cast

from msgspec import Struct

from events.contracts.catalog.model import without_personal
from events.contracts.diff import inlined
from events.contracts.schemas import payload_schema
from events.integration import DeadLetter, IntegrationEvent, Message
from events.integration.message import UNDECODABLE
from events.integration.personal import MASK, has_personal_data, masked

_LONGEST = 64 << 10  # characters of a body or an error that are shown
_OURS = frozenset(  # a key is its sender's, as a foreign attribute is
    {"id", "source", "specversion", "type", "time", "eventversion", "datacontenttype"}
    | {"correlationid", "causationid", "traceparent", "tracestate"}
)
_HIDDEN = "Hidden: it is not known which values are personal. Ask for a role that may see them."


def visible(text: object) -> str:
    r"""Return a text with invisible characters and changes of writing direction escaped.

    >>> visible("a\x00b\u202ec")
    'a\\x00b\\u202ec'
    """
    given = str(text)
    if given.isascii() and given.isprintable():
        return given
    return "".join(c if c in "\n\t" or _is_seen(c) else _escaped(c) for c in given)


def _is_seen(character: str) -> bool:
    return unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def ago(time: datetime) -> str:
    """Return how long ago a time was."""
    seconds = (datetime.now(UTC) - time).total_seconds()
    return f"{duration(seconds)} ago" if seconds >= 0 else f"in {duration(-seconds)}"


def duration(seconds: float) -> str:
    """Return a length of time in its largest unit.

    >>> duration(0.2), duration(75), duration(7300), duration(200_000)
    ('0 s', '1 min', '2 h', '2 d')
    """
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


class Letter(Struct, frozen=True, kw_only=True):
    """A dead letter, or a parked row, for a visitor."""

    id: str
    consumer: str
    topic: str
    type: str
    message_id: str
    correlation_id: str
    trace_id: str | None
    reason: str
    error: str
    attempts: int
    died_at: datetime
    key: str | None
    headers: dict[str, str]
    body: str
    hidden: bool
    cut: bool
    size: int

    @property
    def first_line(self) -> str:
        """The first line of its error, which the templates show."""
        return self.error.strip().partition("\n")[0]

    @property
    def known_by(self) -> str:
        """What tells it from others in a list: its key, or the event's id if no key is shown."""
        return self.message_id if self.key in {None, MASK} else f"{self.key}"

    def has(self, text: str) -> bool:
        """Return whether its error or body contains this text, as far as they are shown."""
        wanted = text.casefold()
        return wanted in self.error.casefold() or wanted in self.body.casefold()


class Shown:
    """Masks personal values in the events of these classes."""

    def __init__(self, events: Iterable[type[IntegrationEvent]]) -> None:
        self._classes: dict[str, dict[int, type[IntegrationEvent]]] = {}
        self._schemas: dict[type[IntegrationEvent], Any] = {}
        for each in events:
            for version, event_class in {
                **each.registry.versions(each.type),
                each.version: each,
            }.items():
                self._classes.setdefault(each.type, {})[version] = event_class

    def letter(self, letter: DeadLetter, *, personal: bool) -> Letter:
        """Return a dead letter for a visitor who may, or may not, see personal values."""
        return self.message(
            letter.message,
            personal=personal,
            id=letter.id,
            consumer=letter.consumer,
            reason=letter.reason,
            error=letter.error,
            attempts=letter.attempts,
            died_at=letter.died_at,
        )

    def message(
        self,
        message: Message,
        *,
        personal: bool,
        id: str,
        consumer: str,
        reason: str,
        error: str,
        attempts: int,
        died_at: datetime,
    ) -> Letter:
        """Return a message and its outcome."""
        value, text = _read(message.body)
        event_class = self._class_of(message, value)
        key, headers, hidden = message.key, dict(message.headers), False
        if personal:
            pass
        elif event_class is None or _is_unsure(event_class, reason, value):
            hidden, value, text = True, None, _HIDDEN
            key = None if key is None else MASK
            headers = {name: _attribute_or_mask(name, held) for name, held in headers.items()}
        elif has_personal_data(event_class):
            error = masked(error, event_class, value)
            key = None if key is None else masked(key, event_class, value)
            headers = {name: masked(held, event_class, value) for name, held in headers.items()}
            value = self._without_personal(value, event_class)
        if value is not None:
            text = json.dumps(value, indent=2, ensure_ascii=False)
        return Letter(
            id=id,
            consumer=consumer,
            topic=_linkable(message.topic),
            type=_linkable(message.type),
            message_id=_linkable(message.id),
            correlation_id=_linkable(message.correlation_id),
            trace_id=_trace_id(message.headers),
            reason=reason,
            error=visible(error[:_LONGEST]),
            attempts=attempts,
            died_at=died_at,
            key=None if key is None else visible(key),
            headers={visible(name): visible(held) for name, held in sorted(headers.items())},
            body=visible(text[:_LONGEST]),
            hidden=hidden,
            cut=len(text) > _LONGEST or len(error) > _LONGEST,
            size=len(message.body),
        )

    def _class_of(self, message: Message, value: object) -> type[IntegrationEvent] | None:
        """Return the class that describes a message, or None if none of those known does."""
        versions = self._classes.get(message.type, {})
        said: object = message.headers.get("ce-eventversion")
        if isinstance(value, dict):
            said = cast("dict[str, object]", value).get("version", said)
        try:
            return versions.get(int(str(said)))
        except (TypeError, ValueError):
            return None

    def _without_personal(self, value: object, event_class: type[IntegrationEvent]) -> object:
        if event_class not in self._schemas:
            self._schemas[event_class] = inlined(payload_schema(event_class))
        return without_personal(value, self._schemas[event_class], unknown=MASK)


def _is_unsure(event_class: type[IntegrationEvent], reason: str, value: object) -> bool:
    """Return whether a body does not fit its class, and the class has personal values."""
    as_said = reason != UNDECODABLE and isinstance(value, dict)
    return has_personal_data(event_class) and not as_said


def _attribute_or_mask(name: str, value: str) -> str:
    """Return a header that the library writes of itself, and the mask for any other."""
    return value if name.startswith("trace") or name.removeprefix("ce-") in _OURS else MASK


def _read(body: bytes) -> tuple[object, str]:
    """Return the value of a body that is JSON, else None, and its text."""
    text = body.decode("utf-8", "backslashreplace")
    try:
        value: object = json.loads(text)
        json.dumps(value, indent=2)
    except (ValueError, RecursionError):
        return None, text
    return value, text


def _linkable(text: str) -> str:
    """Return a text without the lone surrogates that no URL can have."""
    return text.encode("utf-8", "replace").decode()


def _trace_id(headers: Mapping[str, str]) -> str | None:
    parts = headers.get("traceparent", headers.get("ce-traceparent", "")).split("-")
    if len(parts) < 4 or len(parts[1]) != 32 or not parts[1].isalnum():  # noqa: PLR2004
        return None
    return parts[1].lower()
