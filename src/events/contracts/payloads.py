"""Payloads that a JSON Schema allows: a plain one first, then one for each thing that may vary.

Always the same for the same schema, so that a verdict can be repeated. Each value is varied by
itself, which finds what a single field breaks without multiplying the fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, cast

_MOST = 500  # of one event
_DEEPEST = 6
_FORMATS: Mapping[str, Sequence[str]] = {
    "date-time": ("2026-01-31T12:30:45.123456Z", "2026-01-31T12:30:45+02:00"),
    "date": ("2026-01-31", "1999-12-31"),
    "time": ("12:30:45Z", "12:30:45.123456+02:00"),
    "duration": ("P1DT2H", "PT0.5S"),
    "uuid": ("018f4e3c-8a4b-7c11-9d2e-3f4a5b6c7d8e", "00000000-0000-4000-8000-000000000000"),
    "decimal": ("19.99", "0.000000000000000001"),
    "email": ("ada@example.org",),
    "uri": ("https://example.org/a",),
}
_NAIVE = {"date-time": "2026-01-31T12:30:45", "time": "12:30:45"}
_TEXTS = (
    "text",
    "Text",
    "a",
    "A",
    "AB",
    "EUR",
    "en-GB",
    "1",
    "12",
    "2026-01-31",
    "ada@example.org",
    "https://example.org/a",
    "+4930123456",
    "AB-123",
    "",
    "zażółć 🎉",
)


def payloads(
    schema: Mapping[str, Any],
    *,
    base: Mapping[str, Any] | None = None,
    complete: bool = False,
) -> list[dict[str, Any]]:
    """Return payloads of an object's schema, the simplest first.

    Args:
        schema: The schema; references in it lead into itself.
        base: The plainest one, which the others are varied of.
        complete: Leave no property out, as our own encoder does not.
    """
    made = islice(_Values(schema, complete=complete).of(schema, base=base), _MOST)
    return [cast("dict[str, Any]", each) for each in made if isinstance(each, dict)]


def resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a reference into the root; the members beside it stay."""
    for _ in range(20):  # a reference to a reference, but no ring of them
        reference: object = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#"):
            return schema
        found: Any = root
        for step in reference.removeprefix("#").split("/")[1:]:
            found = found[step.replace("~1", "/").replace("~0", "~")]
        beside = {name: value for name, value in schema.items() if name != "$ref"}
        schema = {**found, **beside}
    return {}


class _Values:
    def __init__(self, root: Mapping[str, Any], *, complete: bool) -> None:
        self._root = root
        self._complete = complete

    def of(self, given: Mapping[str, Any], depth: int = 0, base: Any = None) -> Iterator[Any]:
        """Return values, the simplest first; at least one, unless none is known."""
        schema = resolved(given, self._root)
        if "const" in schema:
            yield schema["const"]
        elif "enum" in schema:
            yield from schema["enum"]
        elif depth > _DEEPEST:
            return
        elif "allOf" in schema:
            yield from self.of(self._merged(schema), depth, base)
        elif options := schema.get("anyOf") or schema.get("oneOf"):
            yield from self._alternatives([self.of(each, depth + 1) for each in options])
        elif isinstance(kinds := schema.get("type"), list):
            yield from self._alternatives(
                [self.of({**schema, "type": kind}, depth) for kind in cast("list[str]", kinds)]
            )
        else:
            yield from self._plain(schema, depth, base)

    def _plain(self, schema: Mapping[str, Any], depth: int, base: Any) -> Iterator[Any]:
        kind = schema.get("type")
        if kind == "object" or "properties" in schema:
            yield from self._objects(schema, depth, base)
        elif kind == "array" or "prefixItems" in schema:
            yield from self._arrays(schema, depth)
        elif kind == "string":
            yield from _strings(schema)
        elif kind in {"integer", "number"}:
            yield from _numbers(schema, whole=kind == "integer")
        elif kind == "boolean":
            yield from (True, False)
        elif kind == "null":
            yield None
        else:  # anything
            yield from ("text", 7, None, {"a": 1})

    def _merged(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        merged: dict[str, Any] = {name: of for name, of in schema.items() if name != "allOf"}
        for each in schema["allOf"]:
            part = resolved(each, self._root)
            part = self._merged(part) if "allOf" in part else part
            properties = {**merged.get("properties", {}), **part.get("properties", {})}
            required = [*merged.get("required", ()), *part.get("required", ())]
            merged = {**merged, **part, "properties": properties, "required": required}
        return merged

    @staticmethod
    def _alternatives(options: Sequence[Iterator[Any]]) -> Iterator[Any]:
        """Return the first of each option, then the others."""
        for option in options:
            yield from islice(option, 1)
        for option in options:
            yield from option

    def _objects(self, schema: Mapping[str, Any], depth: int, base: Any) -> Iterator[Any]:
        properties: dict[str, Any] = schema.get("properties", {})
        required = set(schema.get("required", ()))
        values = {name: list(self.of(each, depth + 1)) for name, each in properties.items()}
        for name, each in properties.items():
            if "default" in each:  # a Struct may leave out what is at its default
                values[name].append(each["default"])
        if any(not values[name] for name in required & values.keys()):
            return
        plain = {name: found[0] for name, found in values.items() if found}
        if isinstance(base, dict):
            plain |= cast("dict[str, Any]", base)
        # Keys of a dict.
        others = schema.get("additionalProperties")
        if isinstance(others, dict) and not properties:
            names = list(islice(_strings({**schema.get("propertyNames", {})}), 2))
            found = list(self.of(cast("dict[str, Any]", others), depth + 1))
            yield dict.fromkeys(names[:1], found[0]) if found and names else {}
            yield from ({names[0]: each} for each in found[1:] if names)
            return
        yield plain
        for name, found in values.items():
            yield from ({**plain, name: each} for each in found if each != plain.get(name))
        if not self._complete:
            for name in properties.keys() - required:
                yield {of: each for of, each in plain.items() if of != name}
            if properties.keys() - required:
                yield {of: each for of, each in plain.items() if of in required}

    def _arrays(self, schema: Mapping[str, Any], depth: int) -> Iterator[Any]:
        if places := schema.get("prefixItems"):
            values = [list(self.of(each, depth + 1)) for each in places]
            if all(values):
                plain = [found[0] for found in values]
                yield plain
                for index, found in enumerate(values):
                    yield from ([*plain[:index], each, *plain[index + 1 :]] for each in found[1:])
            return
        items: Any = schema.get("items", {})
        found = list(self.of({} if isinstance(items, bool) else items, depth + 1))
        least, most = schema.get("minItems", 0), schema.get("maxItems", 2)
        if found and most:
            yield [found[index % len(found)] for index in range(max(1, least))]
            yield from ([each] * max(1, least) for each in found[1:])
        if not least:
            yield []


def _strings(schema: Mapping[str, Any]) -> Iterator[str]:
    if "enum" in schema:
        yield from schema["enum"]
        return
    if schema.get("contentEncoding") == "base64":
        yield "aGVsbG8="
        return
    kind = schema.get("format", "")
    zone = schema.get("x-timezone")
    if kind in _FORMATS:
        if zone != "none":
            yield from _FORMATS[kind]
        if zone is not None and kind in _NAIVE:
            yield _NAIVE[kind]
        return
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    try:
        pattern = re.compile(schema.get("pattern", ""))
    except re.error:  # as `\p{L}`, which Python has not: only its examples are known to match
        yield from schema.get("examples", ())
        return
    for text in (*schema.get("examples", ()), *_TEXTS):
        fitted = text + "x" * (least - len(text))
        fitted = fitted if most is None else fitted[:most]
        if pattern.search(fitted):
            yield fitted


def _numbers(schema: Mapping[str, Any], *, whole: bool) -> Iterator[float]:
    step = schema.get("multipleOf", 1)
    candidates: list[float] = [7, 0, 1, -1, 100, 2**31, 2**40]
    if not whole:
        candidates = [1.5, *candidates, -0.25, 1e-9]
    for name, by in (
        ("minimum", 0),
        ("maximum", 0),
        ("exclusiveMinimum", 1),
        ("exclusiveMaximum", -1),
    ):
        limit: object = schema.get(name)
        if isinstance(limit, int | float) and not isinstance(limit, bool):
            candidates += [limit + by, limit + by / 2] if not whole else [limit + by]
    candidates += [each * step for each in (1, 2, 10)]
    for each in candidates:
        if (
            each >= schema.get("minimum", each)
            and each <= schema.get("maximum", each)
            and each > schema.get("exclusiveMinimum", each - 1)
            and each < schema.get("exclusiveMaximum", each + 1)
            and ("multipleOf" not in schema or each % step == 0)
        ):
            yield each
