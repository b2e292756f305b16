"""Personal data in events: marked in the class, masked where events are shown.

    email: Annotated[str, PII]

Marked values are masked in the event's `repr`, in log lines about it and in the errors of dead
letters, and marked in schemas as `x-pii`. They are sent in clear text: this is not encryption.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, cast

import msgspec
from msgspec import inspect

PII: Final = msgspec.Meta(extra_json_schema={"x-pii": True})
"""Marks a field, or a type within a field, as personal data: `email: Annotated[str, PII]`."""

MASK: Final = "***"

_FIELDS = (
    inspect.DataclassType,
    inspect.StructType,
    inspect.NamedTupleType,
    inspect.TypedDictType,
)
_ITEMS = (inspect.ListType, inspect.SetType, inspect.FrozenSetType, inspect.VarTupleType)
_SHORTEST = 3  # of a text that is masked wherever it occurs


def shown(event_class: type, name: str, value: object) -> str:
    """Return the `repr` of a field's value, with personal data masked."""
    info = _personal_fields(event_class).get(name)
    if info is None:
        return repr(value)
    try:
        return _shown(info, value)
    except RecursionError:  # it holds itself
        return MASK


def has_personal_data(event_class: type) -> bool:
    """Return whether a class of events has fields that are marked as personal."""
    return bool(_personal_fields(event_class))


def masked(text: str, event_class: type, holder: object) -> str:
    """Return a text, such as an error's, without the personal values of an event or a payload.

    It finds the values unchanged, and as `repr` and JSON escape them.
    """
    values: set[str] = set()
    for name, info in _personal_fields(event_class).items():
        values.update(_values(info, _member(holder, name)))
    forms = {form for value in values if len(value) >= _SHORTEST for form in _forms(value)}
    for form in sorted(forms, key=len, reverse=True):  # one may be part of another
        text = text.replace(form, MASK)
    return text


def _forms(value: str) -> Iterator[str]:
    """Return a text unchanged, and as Python and JSON escape it, without quotes."""
    yield value
    yield repr(value)[1:-1]
    yield repr(f"{value}'\"")[1:-4]  # an apostrophe is escaped where there are both quotes
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]


@lru_cache(1024)
def _personal_fields(event_class: type) -> Mapping[str, Any]:
    """Return the fields that are personal or contain personal data, by name."""
    try:
        info = inspect.type_info(event_class)
    except Exception:  # noqa: BLE001 - whatever it is, using the class says so
        return {}
    fields: tuple[Any, ...] = getattr(info, "fields", ())
    return {each.name: each.type for each in fields if _is_personal(each.type, ())}


def _is_personal(info: Any, within: tuple[object, ...]) -> bool:
    if isinstance(info, inspect.Metadata):
        return _is_marked(info) or _is_personal(info.type, within)
    if isinstance(info, _FIELDS):
        if info.cls in within:
            return False
        inner = (*within, info.cls)
        return any(_is_personal(each.type, inner) for each in info.fields)
    return any(_is_personal(each, within) for each in _parts(info))


def _is_marked(info: inspect.Metadata) -> bool:
    extra: Mapping[str, Any] | None = getattr(info, "extra_json_schema", None)
    return bool(extra and extra.get("x-pii"))


def _parts(info: Any) -> tuple[Any, ...]:
    if isinstance(info, inspect.UnionType):
        return info.types
    if isinstance(info, _ITEMS):
        return (info.item_type,)
    if isinstance(info, inspect.TupleType):
        return info.item_types
    if isinstance(info, inspect.DictType):
        return (info.key_type, info.value_type)
    return ()


def _shown(info: Any, value: Any) -> str:
    if isinstance(info, inspect.Metadata):
        if _is_marked(info):
            return repr(value) if value is None else MASK
        return _shown(info.type, value)
    if isinstance(info, inspect.UnionType):
        fitting = [each for each in info.types if _is_personal(each, ()) and _fits(each, value)]
        return _shown(fitting[0], value) if fitting else repr(value)
    if isinstance(info, _FIELDS) and not isinstance(value, dict):
        given = ", ".join(
            f"{each.name}={_shown(each.type, getattr(value, each.name, None))}"
            for each in info.fields
        )
        return f"{type(value).__qualname__}({given})"
    if not _is_personal(info, ()):
        return repr(cast("object", value))
    return _shown_items(info, value)


def _shown_items(info: Any, value: Any) -> str:
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        if isinstance(info, inspect.DictType):
            pairs = [f"{_shown(info.key_type, k)}: {_shown(info.value_type, v)}" for k, v in items]
        else:
            types = {each.name: each.type for each in getattr(info, "fields", ())}
            pairs = [f"{k!r}: {_shown(types.get(str(k)), v)}" for k, v in items]
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list | tuple | set | frozenset):
        held = cast("list[object]", list(cast("Any", value)))
        types_of: list[Any] = list(_parts(info)) or [None]
        if not isinstance(info, inspect.TupleType):
            types_of = types_of[:1] * len(held)
        inner = ", ".join(_shown(of, each) for of, each in zip(types_of, held, strict=False))
        return f"[{inner}]"
    return MASK  # not of its type, so it may be personal


def _fits(info: Any, value: object) -> bool:
    while isinstance(info, inspect.Metadata):
        info = info.type
    if value is None:
        return isinstance(info, inspect.NoneType)
    if isinstance(info, inspect.TypedDictType):
        return isinstance(value, dict)
    if isinstance(info, _FIELDS):
        kind: type = getattr(info.cls, "__origin__", info.cls)
        return isinstance(value, kind | dict)
    return True


def _values(info: Any, value: object) -> Iterator[str]:
    """Return the personal texts in a value or in its JSON form."""
    if isinstance(info, inspect.Metadata):
        yield from _leaves(info, value) if _is_marked(info) else _values(info.type, value)
    elif value is None:
        return  # so its members have no value at any depth
    elif isinstance(info, _FIELDS):
        for each in info.fields:
            if _is_personal(each.type, ()):
                yield from _values(each.type, _member(value, each.name))
    else:
        for part, held in _pairs(info, value):
            yield from _values(part, held)


def _pairs(info: Any, value: object) -> Iterator[tuple[Any, object]]:
    """Return the members of a value, each with its possible types."""
    held: list[object] = []
    if isinstance(info, inspect.UnionType):
        held = [value]
    elif isinstance(info, inspect.DictType) and isinstance(value, Mapping):
        members = cast("Mapping[object, object]", value)
        held = [*members, *members.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        held = list(cast("Any", value))
    yield from ((part, each) for part in _parts(info) for each in held)


def _leaves(info: Any, value: object) -> Iterator[str]:
    """Return all texts in a personal value, with the keys of dicts, without names of fields."""
    members = _members(info, value)
    if members is not None:
        for part, each in members:
            yield from _leaves(part, each)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def _has_members(info: Any) -> bool:
    while isinstance(info, inspect.Metadata):
        info = info.type
    return isinstance(info, (*_FIELDS, inspect.DictType, inspect.AnyType))


def _members(info: Any, value: Any) -> list[tuple[Any, object]] | None:
    """Return the members of a value, each with its type if known, or None."""
    while isinstance(info, inspect.Metadata):
        info = info.type
    if isinstance(info, inspect.UnionType):
        if not isinstance(value, Mapping):
            return [(each, value) for each in info.types]
        return [(each, value) for each in info.types if _has_members(each)] or [(None, value)]
    types: dict[str, Any] = {each.name: each.type for each in getattr(info, "fields", ())}
    if isinstance(value, Mapping):
        given = cast("Mapping[object, object]", value)
        if not (info is None or isinstance(info, inspect.DictType | inspect.AnyType)):
            return [(types.get(str(name)), each) for name, each in given.items()]
        key, item = _parts(info) or (None, None)
        return [(key, each) for each in given] + [(item, each) for each in given.values()]
    if isinstance(value, list | tuple | set | frozenset):
        held = list(cast("Any", value))
        return [(part, each) for part in _parts(info) or (None,) for each in held]
    names = getattr(value, "__dataclass_fields__", getattr(value, "__struct_fields__", None))
    return names and [(types.get(name), getattr(value, name, None)) for name in names]


def _member(holder: object, name: str) -> object:
    if isinstance(holder, Mapping):
        return cast("Mapping[str, object]", holder).get(name)
    return getattr(holder, name, None)
