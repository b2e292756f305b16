"""What JSON would change silently: looked for in a class once, refused in a value at encoding.

msgspec writes some values as something that reads back differently, or not at all:

- NaN and the infinities become null;
- the seconds of a UTC offset are dropped, and a zone that has no offset altogether;
- an instance of a field class's subclass loses what the subclass adds;
- what a field of type Any holds comes back as JSON's own types.

A check is made for just those places in a class, or None where there are none, so that other
fields cost nothing. Most that are left hold what they nearly always do, a datetime in UTC and an
instance of the very class: that is seen of all of them in one look. Field types that cannot make
the trip at all are refused there and then.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, time
from math import isfinite
from operator import attrgetter
from typing import Any, Final, TypeAlias, TypeGuard

from msgspec import Struct, inspect

__all__ = ["Check", "UnfitError", "UnsupportedFieldError", "check_for"]

Check: TypeAlias = Callable[[Any], None]
_Getters: TypeAlias = Sequence[tuple[str, Callable[[Any], Any], Check]]


class UnfitError(ValueError):
    """A value that JSON would change. `path` grows on the way out to the event."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = ""

    def __str__(self) -> str:
        return f"${self.path}: {self.reason}"


class UnsupportedFieldError(TypeError):
    """A field type that has no JSON form."""


class Member(Struct, frozen=True):
    """A field to check, and `usual`: an attribute of its value, and what it is if all is well."""

    name: str
    check: Check
    usual: tuple[str, object] | None


def check_for(info: inspect.DataclassType) -> Check | None:
    """Make the check that events of a class need before they are sent, if any.

    Raises:
        UnsupportedFieldError: a field has no JSON form. It names the field.
    """
    return _members(_Maker().of_fields(info.fields, ""))


KEYS: Final = (
    inspect.BytesType,
    inspect.DateType,
    inspect.DecimalType,
    inspect.EnumType,
    inspect.IntType,
    inspect.StrType,
    inspect.TimeDeltaType,
    inspect.UUIDType,
)


class _Maker:
    """Walks the types of a class's fields. `path` names the field for people."""

    def __init__(self) -> None:
        self._classes: dict[type, Check] = {}
        self._bare: set[type] = set()  # of these, no field needs a check

    def make(self, info: inspect.Type, path: str) -> Check | None:  # noqa: C901, PLR0911
        """Make the check for a type. Each tolerates values of other types: msgspec judges those."""
        match info:
            case inspect.Metadata():
                return self.make(info.type, path)
            case inspect.AnyType() | inspect.CustomType(cls=builtins.object):
                return _check_any
            case inspect.CustomType() | inspect.RawType() | inspect.ExtType():
                what = getattr(info, "cls", type(info))
                raise UnsupportedFieldError(
                    f"field {path}: {what!r} has no JSON form: give what the receiver needs of it, "
                    f"as str, UUID, Decimal and the like, or as a dataclass of these"
                )
            case inspect.FloatType():
                return _check_float
            case inspect.DateTimeType() | inspect.TimeType():
                return _check_offset
            case inspect.UnionType():
                return _all_of([self.make(each, path) for each in info.types])
            case inspect.TupleType():
                return _positions([self.make(each, f"{path}[]") for each in info.item_types])
            case inspect.CollectionType():
                return _items(self.make(info.item_type, f"{path}[]"))
            case inspect.DictType():
                return _pairs(_check_for_key(info, path), self.make(info.value_type, f"{path}[]"))
            case inspect.TypedDictType():
                return _entries(self.of_fields(info.fields, path))
            case inspect.DataclassType() | inspect.StructType() | inspect.NamedTupleType():
                return self._of_class(info, path)
            case _:
                return None

    def _of_class(
        self, info: inspect.DataclassType | inspect.StructType | inspect.NamedTupleType, path: str
    ) -> Check:
        cls = info.cls
        if cls not in self._classes:

            def check_later(value: Any) -> None:
                self._classes[cls](value)

            # A class that contains itself meets this one, which finds the other when it runs.
            self._classes[cls] = check_later
            members = self.of_fields(info.fields, path)
            self._classes[cls] = _instance(cls, _members(members))
            if not members:
                self._bare.add(cls)
        return self._classes[cls]

    def of_fields(self, fields: Iterable[inspect.Field], path: str) -> list[Member]:
        begin = f"{path}." if path else ""
        made = [(field, self.make(field.type, begin + field.name)) for field in fields]
        return [
            Member(field.name, check, self._usual(field.type))
            for field, check in made
            if check is not None
        ]

    def _usual(self, info: inspect.Type) -> tuple[str, object] | None:
        match info:
            case inspect.Metadata():
                return self._usual(info.type)
            case inspect.DateTimeType():
                return "tzinfo", UTC
            case inspect.DataclassType() | inspect.StructType() if info.cls in self._bare:
                return "__class__", info.cls
            case _:
                return None


def _check_for_key(info: inspect.DictType, path: str) -> Check | None:
    key = info.key_type
    while isinstance(key, inspect.Metadata):
        key = key.type
    match key:
        case inspect.AnyType() | inspect.CustomType(cls=builtins.object):
            return _check_str_key
        case inspect.FloatType():
            return _check_float
        case inspect.DateTimeType() | inspect.TimeType():
            return _check_offset
        case inspect.LiteralType() if len({type(value) for value in key.values}) == 1:
            return None
        case _ if isinstance(key, KEYS):
            return None
        case _:
            raise UnsupportedFieldError(
                f"field {path}: its keys do not come back from JSON as they were: let all be of "
                f"one type, such as str, int, UUID, date or an Enum"
            )


# --- checks of single values ------------------------------------------------------------------


def _check_float(value: Any) -> None:
    if isinstance(value, float) and not isfinite(value):
        raise UnfitError(f"{value!r} has no JSON form: use a Decimal, or None")


def _check_offset(value: Any) -> None:
    zone = getattr(value, "tzinfo", None)
    if zone is UTC or zone is None or not isinstance(value, (datetime, time)):
        return
    offset = value.utcoffset()
    if offset is None:
        raise UnfitError(f"{value!r} has a zone but no UTC offset: use UTC")
    if offset.seconds % 60 or offset.microseconds:
        raise UnfitError(f"{value!r} has a UTC offset that is no whole minutes: use UTC")


def _check_str_key(key: Any) -> None:
    if not isinstance(key, str):
        raise UnfitError(f"the key {key!r} would come back as a str: give the field a type")


def _check_any(value: Any) -> None:
    if value is None or isinstance(value, (str, bool, int)):
        return
    if isinstance(value, float):
        _check_float(value)
    elif isinstance(value, list):
        _check_items(value)
    elif isinstance(value, dict):
        _check_pairs(value)
    else:
        raise UnfitError(
            f"a {type(value).__qualname__} in a field of type Any would come back as another type: "
            f"give the field a type"
        )


# --- checks of what values hold ---------------------------------------------------------------


def _is_tuple(value: Any) -> TypeGuard[tuple[Any, ...]]:
    return isinstance(value, tuple)


def _is_mapping(value: Any) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)


def _is_collection(value: Any) -> TypeGuard[Collection[Any]]:
    return isinstance(value, (list, tuple, set, frozenset))


def _all_of(checks: Iterable[Check | None]) -> Check | None:
    needed = [check for check in checks if check is not None]
    if not needed:
        return None
    if len(needed) == 1:
        return needed[0]

    def check_all(value: Any) -> None:
        for check in needed:
            check(value)

    return check_all


def _items(check: Check | None) -> Check | None:
    if check is None:
        return None

    def check_items(value: Any) -> None:
        if not _is_collection(value) or (check is _check_float and _is_sum_finite(value)):
            return
        index = -1
        try:
            for item in value:
                index += 1
                check(item)
        except UnfitError as exc:
            exc.path = f"[{index}]{exc.path}"
            raise

    return check_items


def _is_sum_finite(values: Iterable[Any]) -> bool:
    """Tell quickly that no float is NaN or infinite; False is for someone else to look into."""
    try:
        return isfinite(sum(values))
    except (TypeError, OverflowError):
        return False


def _positions(checks: list[Check | None]) -> Check | None:
    if not any(checks):
        return None

    def check_positions(value: Any) -> None:
        if not _is_tuple(value):
            return
        for index, (check, item) in enumerate(zip(checks, value, strict=False)):
            try:
                if check is not None:
                    check(item)
            except UnfitError as exc:
                exc.path = f"[{index}]{exc.path}"
                raise

    return check_positions


def _pairs(check_key: Check | None, check_value: Check | None) -> Check | None:
    if check_key is None and check_value is None:
        return None

    def check_pairs(value: Any) -> None:
        if not _is_mapping(value):
            return
        key = None
        try:
            for key, item in value.items():
                if check_key is not None:
                    check_key(key)
                if check_value is not None:
                    check_value(item)
        except UnfitError as exc:
            exc.path = f"[{key!r}]{exc.path}"
            raise

    return check_pairs


def _members(members: list[Member]) -> Check | None:
    """Check attributes. One that is not there is msgspec's business."""
    if not members:
        return None
    getters = [(each.name, attrgetter(each.name), each.check) for each in members]

    def check_members(value: Any, getters: _Getters = getters) -> None:
        name = ""
        try:
            for name, get, check in getters:  # noqa: B007
                check(get(value))
        except UnfitError as exc:
            exc.path = f".{name}{exc.path}"
            raise

    looks = [(f"{each.name}.{each.usual[0]}", each.usual[1]) for each in members if each.usual]
    if not looks:
        return check_members
    look = attrgetter(*(path for path, _ in looks))
    usual = tuple(expected for _, expected in looks) if len(looks) > 1 else looks[0][1]
    others = [getter for getter, each in zip(getters, members, strict=True) if not each.usual]

    def check_unusual_members(value: Any) -> None:
        try:
            left = others if look(value) == usual else getters
        except AttributeError:  # as of None
            left = getters
        if left:
            check_members(value, left)

    return check_unusual_members


def _entries(members: list[Member]) -> Check | None:
    if not members:
        return None
    checks = [(each.name, each.check) for each in members]

    def check_entries(value: Any) -> None:
        if not _is_mapping(value):
            return
        name = ""
        try:
            for name, check in checks:
                check(value.get(name))
        except UnfitError as exc:
            exc.path = f".{name}{exc.path}"
            raise

    return check_entries


def _instance(cls: type, check: Check | None) -> Check:
    def check_instance(value: Any) -> None:
        if value.__class__ is cls:
            if check is not None:
                check(value)
        elif isinstance(value, cls):
            raise UnfitError(
                f"it is a {type(value).__qualname__}, of which only what {cls.__qualname__} has "
                f"would arrive: give the field the class that it holds"
            )

    return check_instance


_check_items = _items(_check_any) or _check_any
_check_pairs = _pairs(_check_str_key, _check_any) or _check_any
