"""What differs between two locks, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return what was added, changed and removed, one line for each."""
    return [*_events(old, new), *_sends(old, new), *_consumers(old, new)]


def schema_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the differences of two schemas, by the place in the payload."""
    return list(_schemas(inlined(old), inlined(new), "$"))


def _events(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    was, now = old["events"], new["events"]
    for type_ in sorted({*was, *now}):
        before, after = was.get(type_, {}), now.get(type_, {})
        for version in sorted({*before, *after}, key=int):
            name = f"{type_} v{version}"
            if version not in after:
                yield f"- {name}"
            elif version not in before:
                yield f"+ {name}"
            else:
                one, other = before[version], after[version]
                found = schema_differences(one["schema"], other["schema"])
                yield from (f"~ {name} {each}" for each in found)
                if one.get("deprecated") != other.get("deprecated"):
                    yield f"~ {name} deprecated: {other.get('deprecated', 'no more')}"
                same = not found and one.get("deprecated") == other.get("deprecated")
                if same and one != other:
                    yield f"~ {name} its description, example or place"


def _sends(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    def flat(lock: Mapping[str, Any]) -> set[str]:
        return {
            f"sends {type_} v{version} to {topic}"
            for topic, types in lock["sends"].items()
            for type_, versions in types.items()
            for version in versions
        }

    yield from _sets(flat(old), flat(new))


def _consumers(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    def flat(lock: Mapping[str, Any]) -> set[str]:
        return {
            f"{name} reads {type_} v{version} of {topic} as v{wanted}"
            for name, topics in lock["consumers"].items()
            for topic, types in topics.items()
            for type_, reads in types.items()
            for version, wanted in reads.items()
        }

    yield from _sets(flat(old), flat(new))


def _sets(was: set[str], now: set[str]) -> Iterator[str]:
    yield from (f"- {each}" for each in sorted(was - now))
    yield from (f"+ {each}" for each in sorted(now - was))


def _schemas(old: Any, new: Any, path: str) -> Iterator[str]:
    if not isinstance(old, dict) or not isinstance(new, dict):
        if old != new:
            yield f"{path}: {_shown(old)} -> {_shown(new)}"
        return
    was, now = cast("dict[str, Any]", old), cast("dict[str, Any]", new)
    before, after = was.get("properties", {}), now.get("properties", {})
    for name in sorted({*before, *after}):
        place = f"{path}.{name}"
        if name not in after:
            yield f"{place}: removed"
        elif name not in before:
            optional = "" if name in now.get("required", ()) else ", optional"
            yield f"{place}: added, {_shown(after[name])}{optional}"
        else:
            yield from _schemas(before[name], after[name], place)
            is_required = [name in each.get("required", ()) for each in (was, now)]
            if is_required[0] != is_required[1]:
                yield f"{place}: {'required' if is_required[1] else 'optional'} from now on"
    if "items" in was and "items" in now:
        yield from _schemas(was["items"], now["items"], f"{path}[...]")
    skipped = {"properties", "required", "title", "$defs"}
    if "items" in was and "items" in now:
        skipped.add("items")
    one = {name: value for name, value in was.items() if name not in skipped}
    other = {name: value for name, value in now.items() if name not in skipped}
    if one != other:
        yield f"{path}: {_shown(one)} -> {_shown(other)}"


def inlined(schema: Mapping[str, Any]) -> Any:
    """Put each definition where it is referred to; one within itself stays a reference."""
    definitions = schema.get("$defs", {})

    def walk(each: Any, within: tuple[str, ...]) -> Any:
        if isinstance(each, list):
            return [walk(one, within) for one in cast("Sequence[Any]", each)]
        if not isinstance(each, dict):
            return each
        members = cast("dict[str, Any]", each)
        name = str(members.get("$ref", "")).removeprefix("#/$defs/")
        if name in definitions and name not in within:
            beside = {key: value for key, value in members.items() if key != "$ref"}
            return walk({**definitions[name], **beside}, (*within, name))
        return {key: walk(one, within) for key, one in members.items() if key != "$defs"}

    return walk(dict(schema), ())


def _shown(schema: Any) -> str:
    if not isinstance(schema, dict):
        return repr(schema)
    members = cast("dict[str, Any]", schema)
    if options := members.get("anyOf"):
        return " or ".join(_shown(each) for each in options)
    kind = str(members.get("format") or members.get("type") or members.get("title") or "anything")
    if values := members.get("enum"):
        kind = "one of " + ", ".join(map(repr, values))
    others = sorted({*members} - {"type", "format", "title", "enum", "properties", "required"})
    rest = ", ".join(f"{name} {members[name]!r}" for name in others if name != "description")
    return f"{kind} ({rest})" if rest else kind
