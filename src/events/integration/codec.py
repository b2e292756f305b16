"""One event class to bytes and back: built once per class, on its first use.

msgspec does the work. What is added: the constant beginning `{"type":...,"version":...` is spliced
in front of the fields, values that would not arrive as they are, or not at all, are refused
(`_json_checks`), and every error becomes one of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import is_dataclass
from decimal import Decimal
from functools import partial
from math import isfinite
from typing import (
    Any,
    Generic,
)

import msgspec

from events.errors import (
    EventDecodeError,
    EventDefinitionError,
    EventEncodeError,
    InvalidEventError,
    MalformedEventError,
)
from events.integration._class_checks import check_class, info_of, own_fields
from events.integration._json_checks import JsonChecks, UnfitError, UnsupportedFieldError, path_of
from events.integration._versioned import Versioned, VersionedT
from events.integration.cloudevents import encode_value

__all__ = ["EventCodec", "codec_of"]

_encode_json = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


class EventCodec(Generic[VersionedT]):
    """Encodes and decodes the events of one concrete class. Safe to share between threads.

    `prefix` is what the body of each of its events begins with, unless it has no fields at all.
    """

    __slots__ = (
        "_checks",
        "_decode",
        "_empty",
        "_fits",
        "event_class",
        "header_type",
        "header_version",
        "prefix",
        "type",
        "version",
    )

    def __init__(self, event_class: type[VersionedT]) -> None:
        """Build it.

        Raises:
            EventDefinitionError: the class is abstract, no dataclass, or has a field of a type
                that msgspec cannot carry. It names the field.
        """
        check_class(event_class)
        self.event_class = event_class
        self.type = event_class.type
        self.version = event_class.version
        head = _encode_json({"type": self.type, "version": self.version})
        # A class without fields has one body, whose end is all that differs.
        self._empty = None if own_fields(event_class) else head
        self.prefix = head[:-1] + b","
        self.header_type = encode_value(self.type)
        self.header_version = str(self.version)
        self._decode: Callable[[bytes], VersionedT] | None = None
        given: object = event_class
        if is_dataclass(given):  # also of one without fields
            try:
                self._checks = JsonChecks(info_of(event_class))
            except UnsupportedFieldError as exc:
                raise EventDefinitionError(event_class, str(exc)) from exc
            self._fits = self._checks.fits
            self._decode = msgspec.json.Decoder(event_class).decode

    def encode(self, event: VersionedT) -> bytes:
        """Give the flat JSON object that goes on the wire.

        Raises:
            EventEncodeError: a field holds what JSON cannot carry, or the class could not read.
        """
        if self._empty is not None:
            return self._empty
        try:
            body = _encode_json(event)
            if not self._fits(event):
                self._checks.verify(event, partial(self.decode, body))
        except Exception as exc:
            raise EventEncodeError(self.event_class, self._why(event, exc)) from exc
        if body == b"{}":
            return self.prefix[:-1] + b"}"
        return body.replace(b"{", self.prefix, 1)

    def decode(self, body: bytes) -> VersionedT:
        """Make the event of a body, whatever type and version the body itself names.

        Raises:
            MalformedEventError: the body is not JSON.
            InvalidEventError: a field is missing or does not fit.
        """
        if self._decode is None:
            return self.convert(read_object(body))
        try:
            return self._decode(body)
        except Exception as exc:
            raise decode_error(exc, self.event_class) from exc

    def to_dict(self, event: VersionedT) -> dict[str, Any]:
        """See `IntegrationEvent.to_dict`."""
        # Through the bytes, so that it is to the letter what a partner's JSON parser gives.
        body = self.encode(event)
        try:
            return read_object(body)
        except MalformedEventError as exc:
            raise EventEncodeError(self.event_class, self._why(event, exc)) from exc

    def _why(self, event: VersionedT, error: Exception) -> str:
        """Say what cannot be encoded, or read, and where it stands."""
        if isinstance(error, UnfitError):
            return str(error)
        doubtful = self._checks.doubtful(event)
        if isinstance(error, EventDecodeError):
            if isinstance(error, InvalidEventError):
                # The decoder does not know keys and indices.
                path = path_of(doubtful[0][0]) if len(doubtful) == 1 else error.path
                return f"{path}: {error.reason}: no consumer could read it"
            return f"no consumer could read it: {error}"
        members = [((f".{each.name}",), each.name) for each in own_fields(self.event_class)]
        places = doubtful + [(place, getattr(event, name, None)) for place, name in members]
        for place, value in places:
            try:
                _encode_json(value)
            except Exception as itself:  # noqa: BLE001 - whatever it is, it is this value's
                return f"{path_of(place)}: {_said(itself)}"
        return _said(error)

    def convert(self, payload: dict[str, Any], *, exact: bool = False) -> VersionedT:
        """Make the event of a payload, whatever type and version the payload itself names.

        The event may share what a field of type Any holds with the payload: give a copy. `exact`
        says that it holds numbers of `read_exactly`.

        Raises:
            InvalidEventError: a field is missing or does not fit.
        """
        try:
            if self._decode is None:
                return self.event_class()
            if exact:
                return self._decode(_encode_exactly(payload))
            return msgspec.convert(payload, self.event_class, str_keys=True)
        except Exception as exc:
            raise decode_error(exc, self.event_class) from exc


def codec_of(event_class: type[VersionedT]) -> EventCodec[VersionedT]:
    """Give the class's codec, making it the first time.

    Raises:
        EventDefinitionError: see `EventCodec`.
    """
    codec: EventCodec[VersionedT] | None = event_class.__event_codec__
    if codec is None or codec.event_class is not event_class:
        codec = event_class.__event_codec__ = EventCodec(event_class)
    return codec


def read_object(body: bytes) -> dict[str, Any]:
    """Read a JSON object of whatever content.

    Raises:
        MalformedEventError: it is something else.
    """
    try:
        return _decode_object(body)
    except Exception as exc:
        raise malformed(exc) from exc


class _ExactFloat(float):
    """A number that has more digits than a float keeps. To an upcaster it is a float."""

    __slots__ = ("text",)
    text: str


def read_exactly(body: bytes) -> tuple[dict[str, Any], bool]:
    """Read a JSON object, keeping all digits of its numbers, and tell whether a float has not.

    Raises:
        MalformedEventError: it is something else.
    """
    exact = False

    def number(text: str) -> float:
        nonlocal exact
        value = float(text)
        if isfinite(value) and Decimal(repr(value)) == Decimal(text):
            return value
        exact = True
        kept = _ExactFloat(value)
        kept.text = text
        return kept

    try:
        return msgspec.json.Decoder(dict[str, Any], float_hook=number).decode(body), exact
    except Exception as exc:
        raise malformed(exc) from exc


def _written(value: object) -> msgspec.Raw:
    if isinstance(value, _ExactFloat):
        return msgspec.Raw(value.text.encode())
    raise TypeError(f"a {type(value).__qualname__} has no JSON form")


_encode_exactly = msgspec.json.Encoder(enc_hook=_written).encode


def malformed(exc: Exception) -> MalformedEventError:
    """Say of a body that cannot be read why."""
    if isinstance(exc, RecursionError):
        return MalformedEventError("it is nested too deeply")
    if isinstance(exc, UnicodeDecodeError):
        return MalformedEventError(f"it is not UTF-8: {exc.reason} at byte {exc.start} of a string")
    return MalformedEventError(str(exc) or repr(exc))


def decode_error(
    exc: Exception, event_class: type[Versioned]
) -> InvalidEventError | MalformedEventError:
    """Say of a body or a payload that does not fit a class where and why."""
    if isinstance(exc, msgspec.ValidationError):
        reason, _, path = str(exc).partition(" - at `")
        return InvalidEventError(event_class, path.rstrip("`") or "$", reason)
    if isinstance(exc, (msgspec.DecodeError, UnicodeDecodeError, RecursionError)):
        return malformed(exc)
    return InvalidEventError(event_class, "$", f"making it raised {exc!r}")


def _said(exc: Exception) -> str:
    if isinstance(exc, RecursionError):
        return "it is nested too deeply, or contains itself"
    return str(exc) or repr(exc)
