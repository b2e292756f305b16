"""The JSON Schema of an event class: msgspec's, with what it leaves out."""

from __future__ import annotations

import inspect as python
from typing import Any, cast

import msgspec
from msgspec import inspect

from events.integration import IntegrationEvent

_REFERENCE = "#/$defs/"


def payload_schema(event_class: type[IntegrationEvent]) -> dict[str, Any]:
    """Return the self-contained schema of a class's bodies.

    It has what msgspec leaves out: the format of a plain `datetime` and `time`, whether these have
    a time zone, the form of a dict's keys, and the constants `type` and `version`.
    """
    info = inspect.type_info(event_class)
    if not isinstance(info, inspect.DataclassType):  # an event without any field
        return _with_constants({"type": "object", "properties": {}, "required": []}, event_class)
    (top,), components = msgspec.json.schema_components(
        [event_class], ref_template=_REFERENCE + "{name}"
    )
    _Annotated(components).annotate(info, top)
    own = components.pop(top["$ref"].removeprefix(_REFERENCE))
    schema = _with_constants(own, event_class)
    for each in (schema, *components.values()):
        if description := each.get("description"):
            each["description"] = python.cleandoc(description)
    if components:
        schema["$defs"] = dict(sorted(components.items()))
    return schema


def _with_constants(schema: dict[str, Any], event_class: type[IntegrationEvent]) -> dict[str, Any]:
    constants = {"type": {"const": event_class.type}, "version": {"const": event_class.version}}
    schema["title"] = event_class.__name__
    schema["properties"] = {**constants, **schema["properties"]}
    schema["required"] = ["type", "version", *schema["required"]]
    return schema


class _Annotated:
    """Walks a type and its schema side by side. Components are visited once."""

    def __init__(self, components: dict[str, Any]) -> None:
        self._components = components
        self._seen: set[str] = set()

    def annotate(  # noqa: C901, PLR0912 - a case for each kind of type
        self, info: Any, schema: dict[str, Any]
    ) -> None:
        while isinstance(info, inspect.Metadata):
            info = info.type
        if "$ref" in schema:
            self._component(info, schema["$ref"].removeprefix(_REFERENCE))
        elif isinstance(info, inspect.UnionType):
            for member, option in _options(info, schema):
                self.annotate(member, option)
        elif isinstance(info, (inspect.DateTimeType, inspect.TimeType)):
            schema["format"] = "date-time" if isinstance(info, inspect.DateTimeType) else "time"
            if info.tz is not True:
                schema["x-timezone"] = "optional" if info.tz is None else "none"
        elif isinstance(info, inspect.CollectionType):
            if "items" in schema:
                self.annotate(info.item_type, schema["items"])
        elif isinstance(info, inspect.TupleType):
            for member, item in zip(info.item_types, schema.get("prefixItems", ()), strict=True):
                self.annotate(member, item)
        elif isinstance(info, inspect.DictType):
            if "additionalProperties" in schema:
                self.annotate(info.value_type, schema["additionalProperties"])
            if names := _key_schema(info.key_type):
                schema["propertyNames"] = {**names, **schema.get("propertyNames", {})}

    def _component(self, info: Any, name: str) -> None:
        fields = getattr(info, "fields", None)
        if fields is None or name in self._seen:
            return
        self._seen.add(name)
        schema = self._components[name]
        if "prefixItems" in schema:  # as of a NamedTuple
            for each, item in zip(fields, schema["prefixItems"], strict=False):
                self.annotate(each.type, item)
        for each in fields:
            if each.encode_name in schema.get("properties", {}):
                self.annotate(each.type, schema["properties"][each.encode_name])


def _key_schema(key: Any) -> dict[str, Any] | None:
    while isinstance(key, inspect.Metadata):
        key = key.type
    if isinstance(key, (inspect.StrType, inspect.AnyType)):
        return None
    if isinstance(key, inspect.IntType):
        return {"pattern": "^-?[0-9]+$"}
    if isinstance(key, inspect.EnumType):
        return {"enum": sorted(str(each.value) for each in key.cls)}
    if isinstance(key, inspect.LiteralType):
        return {"enum": sorted(map(str, key.values))}
    (schema,), _ = msgspec.json.schema_components([_python_type(key)])
    return {name: value for name, value in schema.items() if name != "type"} or None


def _python_type(info: Any) -> Any:
    from datetime import date, datetime, time, timedelta  # noqa: PLC0415 - only for odd keys
    from decimal import Decimal  # noqa: PLC0415
    from uuid import UUID  # noqa: PLC0415

    kinds: dict[str, Any] = {
        "UUIDType": UUID,
        "DateType": date,
        "DateTimeType": datetime,
        "TimeType": time,
        "TimeDeltaType": timedelta,
        "DecimalType": Decimal,
    }
    return kinds.get(type(info).__name__, str)


def _options(info: inspect.UnionType, schema: dict[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
    """Pair a union's members with their schemas, which msgspec has in an order of its own.

    A union has no two members that look alike in JSON, apart from tagged structs, which are
    references.
    """
    found: list[tuple[Any, dict[str, Any]]] = []
    options = cast("list[dict[str, Any]]", list(schema.get("anyOf", ())))
    for option in tuple(options):
        options.extend(option.get("anyOf", ()))
    for member in info.types:
        inner: Any = member
        marks: dict[str, Any] = {}
        while isinstance(inner, inspect.Metadata):
            marks |= cast("dict[str, Any]", inner.extra_json_schema or {})
            inner = inner.type
        name = getattr(getattr(inner, "cls", None), "__name__", None)
        for option in options:
            if name is not None and "$ref" in option:
                reference = option["$ref"].removeprefix(_REFERENCE)
                if reference == name or reference.endswith(f".{inner.cls.__qualname__}"):
                    option.update(marks)  # msgspec has none beside a Struct in a union
                    found.append((inner, option))
            elif name is None and option.get("type") == _json_type(inner):
                found.append((inner, option))
    return found


def _json_type(info: Any) -> str | None:
    if isinstance(info, (inspect.CollectionType, inspect.TupleType)):
        return "array"
    if isinstance(info, inspect.DictType):
        return "object"
    if isinstance(info, (inspect.DateTimeType, inspect.TimeType)):
        return "string"
    return None  # nothing to add
