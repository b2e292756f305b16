"""A reader made of a JSON Schema: it does with a payload what the class of the schema did.

The class may be another release's, or another team's, and is not here. msgspec reads by a type that
is made of the schema, so what such a reader takes and refuses is what the class takes and refuses,
apart from checks of the class's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, Union, cast
from uuid import UUID

import msgspec

from events.contracts.payloads import resolved

_FORMATS: Mapping[str, Any] = {
    "date": date,
    "duration": timedelta,
    "uuid": UUID,
    "decimal": Decimal,
}
_NUMBERS = {
    "minimum": "ge",
    "maximum": "le",
    "exclusiveMinimum": "gt",
    "exclusiveMaximum": "lt",
    "multipleOf": "multiple_of",
}
_LENGTHS = {"minLength": "min_length", "maxLength": "max_length", "pattern": "pattern"}
_ITEMS = {"minItems": "min_length", "maxItems": "max_length"}
_ZONES = {None: True, "none": False}


def reader_of(schema: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], object]:
    """Return a function that reads a payload, or raises `msgspec.ValidationError` with its place.

    A class that refers to itself is checked where it stands first.
    """
    wanted = _Types(schema).of(schema)
    return lambda payload: msgspec.convert(payload, wanted, str_keys=True)


class _Types:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._within: list[str] = []
        self._made = 0

    def of(self, given: Mapping[str, Any], tag_field: str | None = None) -> Any:
        reference: str = given.get("$ref", "")
        if reference in self._within:
            return Any
        self._within.append(reference or "-")
        try:
            made = self._type(resolved(given, self._root), tag_field)
            msgspec.json.Decoder(made)
        except (TypeError, ValueError, re.error):
            # Msgspec has no such type: a union that it cannot tell apart, a pattern that is none
            # of Python's.
            return Any
        finally:
            self._within.pop()
        return made

    def _type(  # noqa: C901, PLR0911 - a case for each kind of schema
        self, schema: Mapping[str, Any], tag_field: str | None
    ) -> Any:
        if "const" in schema:
            return _literal([schema["const"]])
        if "enum" in schema:
            return _literal(schema["enum"])
        if options := schema.get("anyOf") or schema.get("oneOf"):
            tag = schema.get("discriminator", {}).get("propertyName")
            return Union[tuple(self.of(each, tag) for each in options)]  # noqa: UP007 - made here
        if isinstance(kinds := schema.get("type"), list):
            types = [
                self._type({**schema, "type": each}, tag_field) for each in cast("list[str]", kinds)
            ]
            return Union[tuple(types)]  # noqa: UP007
        match schema.get("type"):
            case "string":
                return _string(schema)
            case "integer":
                return _limited(int, schema, _NUMBERS)
            case "number":
                return _limited(float, schema, _NUMBERS)
            case "boolean":
                return bool
            case "null":
                return None
            case "array":
                return self._array(schema)
            case "object":
                return self._object(schema, tag_field)
            case _:
                return self._object(schema, tag_field) if "properties" in schema else Any

    def _array(self, schema: Mapping[str, Any]) -> Any:
        if places := schema.get("prefixItems"):
            return tuple[tuple(self.of(each) for each in places)]  # type: ignore[misc]
        items = schema.get("items")
        of: Any = self.of(cast("dict[str, Any]", items)) if isinstance(items, dict) else Any
        return _limited(list[of], schema, _ITEMS)

    def _object(self, schema: Mapping[str, Any], tag_field: str | None) -> Any:
        properties: dict[str, Any] = schema.get("properties", {})
        others = schema.get("additionalProperties")
        if not properties:
            keys: Any = _string({"type": "string", **schema.get("propertyNames", {})})
            of: Any = self.of(cast("dict[str, Any]", others)) if isinstance(others, dict) else Any
            return dict.__class_getitem__((keys, of))
        required = set(schema.get("required", ()))
        options: dict[str, Any] = {}
        fields: list[tuple[Any, ...]] = []
        names: dict[str, str] = {}
        for index, (name, each) in enumerate(properties.items()):
            tags = [each["const"]] if "const" in each else each.get("enum", ())
            if name == tag_field and len(tags) == 1:
                options |= {"tag": tags[0], "tag_field": name}
                continue
            # The names of properties are any strings.
            names[f"field{index}"] = name
            of = self.of(each)
            if name in required:
                fields.append((f"field{index}", of))
            else:
                optional = Union[of, msgspec.UnsetType]  # noqa: UP007
                fields.append((f"field{index}", optional, msgspec.UNSET))
        self._made += 1
        return msgspec.defstruct(
            f"Reader{self._made}",
            fields,
            rename=names,
            kw_only=True,
            forbid_unknown_fields=others is False,
            **options,
        )


def _literal(values: list[Any]) -> Any:
    if all(isinstance(each, str | int | None) and not isinstance(each, bool) for each in values):
        return Literal[tuple(values)]
    return Any


def _limited(kind: Any, schema: Mapping[str, Any], names: Mapping[str, str]) -> Any:
    limits: dict[str, Any] = {
        names[name]: value for name, value in schema.items() if name in names and value is not None
    }
    return Annotated[kind, msgspec.Meta(**limits)] if limits else kind


def _string(schema: Mapping[str, Any]) -> Any:
    if "enum" in schema:
        return _literal(schema["enum"])
    kind: str = schema.get("format", "")
    if kind in {"date-time", "time"}:
        of = datetime if kind == "date-time" else time
        zone = schema.get("x-timezone")
        return of if zone == "optional" else Annotated[of, msgspec.Meta(tz=_ZONES[zone])]
    if kind in _FORMATS:
        return _FORMATS[kind]
    if schema.get("contentEncoding") == "base64":
        return bytes
    return _limited(str, schema, _LENGTHS)
