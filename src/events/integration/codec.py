"""`EventCodec`: encodes and decodes one event class; made once per class, on its first use.

msgspec does the work. The codec adds the constant prefix `{"type":...,"version":...` to the
fields, refuses values that would not arrive unchanged (`_json_checks`), and converts every error
to one of `events.errors`.
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

_encode_json = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


class EventCodec(Generic[VersionedT]):
    """Encodes and decodes the events of one concrete class. Safe to share between threads.

    `prefix` is the beginning of each body, unless the class has no fields at all.
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
            EventDefinitionError: the class is abstract or not a dataclass, or msgspec cannot
                encode the type of a field. It names the field.
        """
        check_class(event_class)
        self.event_class = event_class
        self.type = event_class.type
        self.version = event_class.version
        head = _encode_json({"type": self.type, "version": self.version})
        # A class without fields has only one body, with another end.
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

    def encode(self, event: VersionedT, *, check: bool = True) -> bytes:
        """Return the flat JSON object that is sent.

        Without `check`, values that the class could not decode are written as msgspec writes them:
        a NaN as null, and a 5 in a `str` field as 5.

        Raises:
            EventEncodeError: JSON cannot represent the value of a field, or the class could not
                decode it.
        """
        if self._empty is not None:
            return self._empty
        try:
            body = _encode_json(event)
            if check and not self._fits(event):
                self._checks.verify(event, partial(self.decode, body))
        except Exception as exc:
            raise EventEncodeError(self.event_class, self._why(event, exc)) from exc
        if body == b"{}":
            return self.prefix[:-1] + b"}"
        return body.replace(b"{", self.prefix, 1)

    def decode(self, body: bytes) -> VersionedT:
        """Return the event of a body, without regard to the type and version in the body.

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
        # Through the bytes, so that it is exactly what a partner's JSON parser returns.
        body = self.encode(event)
        try:
            return read_object(body)
        except MalformedEventError as exc:
            raise EventEncodeError(self.event_class, self._why(event, exc)) from exc

    def _why(self, event: VersionedT, error: Exception) -> str:
        """Return what cannot be encoded or decoded, and its place."""
        if isinstance(error, UnfitError):
            return str(error)
        doubtful = self._checks.doubtful(event)
        if isinstance(error, EventDecodeError):
            if isinstance(error, InvalidEventError):
                # The decoder does not know keys and indices.
                path = path_of(doubtful[0][0]) if len(doubtful) == 1 else error.path
                return f"{path}: {error.reason}: no consumer could decode it"
            return f"no consumer could decode it: {error}"
        members = [((f".{each.name}",), each.name) for each in own_fields(self.event_class)]
        places = doubtful + [(place, getattr(event, name, None)) for place, name in members]
        for place, value in places:
            try:
                _encode_json(value)
            except Exception as itself:  # noqa: BLE001 - whatever it is, it is this value's
                return f"{path_of(place)}: {_said(itself)}"
        return _said(error)

    def convert(self, payload: dict[str, Any], *, exact: bool = False) -> VersionedT:
        """Return the event of a payload, without regard to the type and version in the payload.

        The event may share values of fields of type Any with the payload: pass a copy. `exact`
        means that the payload contains numbers of `read_exactly`.

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
    """Return the class's codec, and make it on the first call.

    Raises:
        EventDefinitionError: see `EventCodec`.
    """
    codec: EventCodec[VersionedT] | None = event_class.__event_codec__
    if codec is None or codec.event_class is not event_class:
        codec = event_class.__event_codec__ = EventCodec(event_class)
    return codec


def read_object(body: bytes) -> dict[str, Any]:
    """Parse any JSON object.

    Raises:
        MalformedEventError: it is something else.
    """
    try:
        return _decode_object(body)
    except Exception as exc:
        raise malformed(exc) from exc


class _ExactFloat(float):
    """A number with more digits than a float can hold. An upcaster sees it as a float."""

    __slots__ = ("text",)
    text: str


def read_exactly(body: bytes) -> tuple[dict[str, Any], bool]:
    """Parse a JSON object with all digits of its numbers; also return whether a float lost any.

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
    """Return the error of a body that cannot be parsed."""
    if isinstance(exc, RecursionError):
        return MalformedEventError("it is nested too deeply")
    if isinstance(exc, UnicodeDecodeError):
        return MalformedEventError(f"it is not UTF-8: {exc.reason} at byte {exc.start} of a string")
    return MalformedEventError(str(exc) or repr(exc))


def decode_error(
    exc: Exception, event_class: type[Versioned]
) -> InvalidEventError | MalformedEventError:
    """Return the error of a body or a payload that does not fit a class, with the field."""
    if isinstance(exc, msgspec.ValidationError):
        reason, _, path = str(exc).partition(" - at `")
        return InvalidEventError(event_class, path.rstrip("`") or "$", reason)
    if isinstance(exc, (msgspec.DecodeError, UnicodeDecodeError, RecursionError)):
        return malformed(exc)
    return InvalidEventError(event_class, "$", f"making it raised {exc!r}")


def _said(exc: Exception) -> str:
    if isinstance(exc, RecursionError):
        return "it is nested too deeply, or contains itself"
    if isinstance(exc, UnicodeEncodeError):
        return (
            f"it has a lone surrogate, half of a character, at {exc.start}: send whole characters"
        )
    return str(exc) or repr(exc)
