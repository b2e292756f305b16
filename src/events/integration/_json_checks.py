"""Find values that a receiver could not read, or would read differently, before they are sent.

msgspec encodes some values such that they decode differently, or not at all. JSON has no NaN, no
seconds in a UTC offset and no types in a field of type Any. An instance of a subclass loses the
fields of the subclass. And Python does not check that a field of type str holds a str.

Each class of events has a quick check of types. An event that does not pass it is decoded as a
receiver would, and compared, so only the decoder decides what can be read.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, time
from functools import cached_property
from math import isfinite
from typing import Any, Final

from msgspec import inspect

from events.integration._check_source import (
    Place,
    UnsupportedFieldError,
    find_of,
    fits_of,
    why_not_built,
)

__all__ = ["JsonChecks", "UnfitError", "UnsupportedFieldError"]

MISSING: Final = object()
CLASSES: Final = ("__dataclass_fields__", "__struct_fields__", "__attrs_attrs__", "_fields")


class UnfitError(ValueError):
    """A value that would not arrive unchanged, and its place in the event."""

    def __init__(self, place: Place, reason: str) -> None:
        super().__init__(f"{path_of(place)}: {reason}")


class JsonChecks:
    """Checks the events of one class: `fits` is quick, `verify` is exact."""

    def __init__(self, info: inspect.DataclassType) -> None:
        """Make the checks.

        Raises:
            UnsupportedFieldError: a field has no JSON form. It names the field.
        """
        if reason := why_not_built(info.cls):
            raise UnsupportedFieldError(reason)
        self._info = info
        self.fits = fits_of(info)

    @cached_property
    def _find(self) -> Callable[[Any, Place, list[tuple[Place, Any]]], None]:
        return find_of(self._info)

    def doubtful(self, event: object) -> list[tuple[Place, Any]]:
        """Return the values that may not arrive unchanged, with their places."""
        found: list[tuple[Place, Any]] = []
        self._find(event, (), found)
        return found

    def verify(self, event: object, decode: Callable[[], object]) -> None:
        """Check an event that `fits` does not accept; `decode` does what a receiver does.

        Raises:
            UnfitError: a value would arrive as another one.
            Exception: any error of `decode`.
        """
        found = self.doubtful(event)
        for place, value in found:
            if reason := _why_no_json(value):
                raise UnfitError(place, reason)
        received = decode()
        for place, value in found:
            if reason := _why_changed(value, _at(place, received)):
                raise UnfitError(place, reason)


def path_of(place: Place) -> str:
    """Return a place as it is written in messages."""
    return "$" + "".join(
        step if isinstance(step, str) else f"[{next(iter(step))!r}]" for step in place
    )


def _at(place: Place, received: Any) -> Any:
    at: Any = received
    for step in place:
        if isinstance(step, set):
            (member,) = step
            return member if member in at else MISSING
        if isinstance(step, list):
            at = at[step[0]]
        else:
            at = at.get(step[1:]) if hasattr(at, "keys") else getattr(at, step[1:])
    return at


def _why_no_json(value: object) -> str | None:
    if isinstance(value, float) and not isfinite(value):
        return f"{value!r} has no JSON form: use a Decimal, or None"
    if isinstance(value, (datetime, time)) and value.tzinfo is not None:
        offset = value.utcoffset()
        if offset is None:
            return f"{value!r} has a zone but no UTC offset: use UTC"
        if offset.seconds % 60 or offset.microseconds:
            return f"{value!r} has a UTC offset with seconds, which RFC 3339 has not: use UTC"
    return None


def _why_changed(sent: object, received: object) -> str | None:
    """Return how a value that can be read would differ."""
    was, becomes = type(sent), type(received)
    if received is MISSING:
        return (
            f"{sent!r}, a {was.__qualname__}, would be decoded as another type: annotate the "
            f"field with its type"
        )
    if was is not becomes and any(hasattr(becomes, name) for name in CLASSES):
        return (
            f"it is a {was.__qualname__}, of which only the fields of {becomes.__qualname__} would "
            f"arrive: annotate the field with {was.__qualname__}"
        )
    if sent == received:
        return None
    if was is becomes:
        return f"it would be decoded as {received!r}"
    return (
        f"a {was.__qualname__} would be decoded as a {becomes.__qualname__}: "
        f"annotate the field with {was.__qualname__}"
    )
