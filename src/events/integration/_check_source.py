"""Generates the source of a class's checks from msgspec's description of its fields.

The source of each class is a straight sequence of comparisons, as in a hand-written function. A
loop over descriptions of fields, with a call for each, takes four times as long.
"""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Flag
from functools import partial
from math import isfinite
from operator import countOf
from types import NoneType
from typing import Annotated, Any, Final, TypeAlias, get_origin
from uuid import UUID

import msgspec
from msgspec import inspect

Fits: TypeAlias = Callable[[Any], bool]
Step: TypeAlias = str | list[Any] | set[Any]
""".name, [an index or a key], or {a member of a set, or a key itself}."""
Place: TypeAlias = tuple[Step, ...]
Find: TypeAlias = Callable[[Any, Place, list[tuple[Place, Any]]], None]
_Write: TypeAlias = Callable[[str], None]
_Cases: TypeAlias = dict[type, _Write | None]
"""The types that a value may be of, and what writes the checks that each needs besides."""
_Class: TypeAlias = inspect.DataclassType | inspect.StructType | inspect.NamedTupleType
_Collection: TypeAlias = (
    inspect.ListType | inspect.VarTupleType | inspect.SetType | inspect.FrozenSetType
)

CONSTRAINTS: Final = (
    "gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern",
)  # fmt: skip
EXACT: Final = 2**53  # integers up to here are floats as well
DEEPEST: Final = 15  # Python takes 20 blocks within each other, and 100 indentations
KEYS: Final = (
    inspect.BytesType | inspect.DateType | inspect.DateTimeType | inspect.DecimalType
    | inspect.EnumType | inspect.FloatType | inspect.IntType | inspect.StrType
    | inspect.TimeDeltaType | inspect.TimeType | inspect.UUIDType
)  # fmt: skip
PLAIN: Final[dict[type[inspect.Type], type]] = {
    inspect.NoneType: NoneType,
    inspect.BoolType: bool,
    inspect.UUIDType: UUID,
    inspect.DecimalType: Decimal,
    inspect.DateType: date,
    inspect.TimeDeltaType: timedelta,
}
SIZED: Final[dict[type[inspect.Type], type]] = {
    inspect.BytesType: bytes,
    inspect.ByteArrayType: bytearray,
    inspect.MemoryViewType: memoryview,
}
_ANY: Final = inspect.AnyType()


class UnsupportedFieldError(TypeError):
    """A field type that has no JSON form."""


def fits_of(info: inspect.DataclassType) -> Fits:
    """Return the quick check of a class's events.

    The check returns True if an event certainly arrives unchanged; False means not certain.

    Raises:
        UnsupportedFieldError: a field has no JSON form. It names the field.
    """
    fits: Fits = _Writer(finding=False).compiled(info)
    return fits


def find_of(info: inspect.DataclassType) -> Find:
    """Return a function that appends the places and values of which `fits_of` is not certain."""
    find: Find = _Writer(finding=True).compiled(info)
    return find


def _has_whole_minutes(value: datetime | time) -> bool:
    """Return whether RFC 3339 can express a UTC offset."""
    offset = value.utcoffset()
    return offset is not None and not offset.seconds % 60 and not offset.microseconds


class _Writer:
    """Writes the function of one class, and of the classes that occur in it more than once.

    `place` is the source of the steps to a value. In the quick check it is for errors only.
    """

    def __init__(self, *, finding: bool) -> None:
        self._finding = finding
        self._lines: list[str] = []
        self._depth = 0
        self._names = 0
        self._globals: dict[str, Any] = {"UTC": UTC, "countOf": countOf, "isfinite": isfinite}
        self._functions: dict[object, str] = {}
        self._left: list[tuple[str, _Write]] = []
        self._seen: set[type] = set()

    def compiled(self, info: inspect.DataclassType) -> Any:
        """Return the function for events of a class."""
        self._seen.add(_class_of(info))
        self._function("check", partial(self._members, info, ()), ends_well=False)
        while self._left:
            self._function(*self._left.pop())
        exec("\n".join(self._lines), self._globals)  # noqa: S102 - as `dataclasses` does
        return self._globals["check"]

    # --- lines -------------------------------------------------------------------------------

    def _line(self, text: str) -> None:
        self._lines.append("    " * self._depth + text)

    @contextmanager
    def _block(self, head: str) -> Generator[None]:
        self._line(head)
        self._depth += 1
        yield
        self._depth -= 1

    def _function(self, name: str, write: _Write, *, ends_well: bool = True) -> None:
        with self._block(f"def {name}(v{', path, found' if self._finding else ''}):"):
            if ends_well:
                write("v")
            else:
                # A value that lacks an attribute, or cannot be compared: it does not fit.
                with self._block("try:"):
                    write("v")
                    self._line("return True")
                self._line("except Exception: return False")
                return
            self._line("return True")

    def _name(self, value: object = None) -> str:
        """Return a new name, for a variable or for a value that the source refers to."""
        self._names += 1
        name = f"n{self._names}"
        if value is not None:
            self._globals[name] = value
        return name

    def _fail(self, place: tuple[str, ...], value: str) -> None:
        if self._finding:
            self._line(f"found.append(({_path(place)}, {value}))")
        else:
            self._line("return False")

    def _fail_if(self, condition: str, place: tuple[str, ...], value: str) -> None:
        with self._block(f"if {condition}:"):
            self._fail(place, value)

    def _call(self, key: object, write: _Write, place: tuple[str, ...], value: str) -> None:
        """Check a value by a separate function."""
        if key not in self._functions:
            self._functions[key] = self._name()
            self._left.append((self._functions[key], write))
        if self._finding:
            self._line(f"{self._functions[key]}({value}, {_path(place)}, found)")
        else:
            self._fail_if(f"not {self._functions[key]}({value})", place, value)

    # --- one value ---------------------------------------------------------------------------

    def _value(self, info: inspect.Type, value: str, place: tuple[str, ...]) -> None:
        if self._depth > DEEPEST:
            self._call(object(), lambda inner: self._value(info, inner, ("*path",)), place, value)
            return
        cases = self._cases(info, place)
        groups: dict[_Write | None, list[type]] = {}
        for type_, write in cases.items():
            groups.setdefault(write, []).append(type_)
        plain = groups.pop(None, [])
        if len(cases) > 1 or groups:
            name = self._name()
            self._line(f"{name} = {value}")
            value = name
        # None first, as it is the quickest to compare.
        plain.sort(key=lambda type_: type_ is not NoneType)
        isnt = " and ".join(self._is(value, type_, "is not") for type_ in plain)
        if not groups:
            self._fail_if(isnt or "True", place, value)
            return
        begin = "if"
        for write, types in groups.items():
            either = " or ".join(self._is(value, type_, "is") for type_ in types)
            with self._block(f"{begin} {either}:"):
                if write is not None:
                    write(value)
                self._line("pass")
            begin = "elif"
        with self._block(f"elif {isnt}:" if isnt else "else:"):
            self._fail(place, value)

    def _is(self, value: str, type_: type, operator: str) -> str:
        if type_ is NoneType:
            return f"{value} {operator} None"
        return f"{value}.__class__ {operator} {self._name(type_)}"

    def _cases(self, info: inspect.Type, place: tuple[str, ...]) -> _Cases:  # noqa: C901, PLR0911, PLR0912
        match info:
            case inspect.Metadata():
                return self._cases(info.type, place)
            case inspect.AnyType() | inspect.CustomType(cls=builtins.object):
                finite = partial(self._finite, place)
                inside = partial(self._call, object, self._any, place)
                plain: _Cases = dict.fromkeys((NoneType, bool, str, int))
                return {**plain, float: finite, list: inside, dict: inside}
            case inspect.CustomType() | inspect.RawType() | inspect.ExtType():
                what = getattr(info, "cls", type(info))
                raise UnsupportedFieldError(
                    f"field {_field(place)}: {what!r} has no JSON form: use fields that the "
                    f"receiver needs, as str, UUID, Decimal and the like, or a dataclass of these"
                )
            case inspect.IntType():
                return {int: self._constraint(info, int, place)}
            case inspect.StrType():
                return {str: self._constraint(info, str, place)}
            case inspect.FloatType():
                checks = self._constraint(info, float, place)
                return {
                    float: _both(partial(self._finite, place), checks),
                    int: _both(partial(self._exact, place), checks),
                }
            case inspect.DateTimeType():
                return {datetime: partial(self._offset, place, info.tz)}
            case inspect.TimeType():
                return {time: partial(self._offset, place, info.tz)}
            case inspect.EnumType():
                # A combination of flags may not be a member.
                flags = issubclass(info.cls, Flag)
                return {info.cls: partial(self._fail, place) if flags else None}
            case inspect.LiteralType():
                known = partial(self._literal, info.values, place)
                return dict.fromkeys(map(type, info.values), known)
            case inspect.UnionType():
                # What is an int here may be a float there: the laxer first, to be replaced.
                each = sorted(info.types, key=lambda one: not isinstance(one, inspect.FloatType))
                return {k: v for one in each for k, v in self._cases(one, place).items()}
            case inspect.TupleType():
                return {tuple: partial(self._positions, info.item_types, place)}
            case inspect.ListType():
                # What is typed as a Sequence may well be a tuple, and arrives as a list.
                inside = partial(self._items, info, place)
                return {list: inside, tuple: inside}
            case inspect.VarTupleType():
                return {tuple: partial(self._items, info, place)}
            case inspect.SetType() | inspect.FrozenSetType():
                inside = partial(self._items, info, place)
                return {set: inside, frozenset: inside}
            case inspect.DictType():
                _check_key(info, place)
                return {dict: partial(self._pairs, info, place)}
            case inspect.TypedDictType():
                return {dict: partial(self._entries, info, place)}
            case inspect.DataclassType() | inspect.StructType() | inspect.NamedTupleType():
                return {_class_of(info): partial(self._instance, info, place)}
            case _ if type(info) in SIZED:
                return {SIZED[type(info)]: self._size(info, place)}
            case _:
                return {PLAIN[type(info)]: None} if type(info) in PLAIN else {}

    # --- more of one value -------------------------------------------------------------------

    def _finite(self, place: tuple[str, ...], value: str) -> None:
        self._fail_if(f"{value} - {value}", place, value)  # NaN, but of finite ones 0.0

    def _exact(self, place: tuple[str, ...], value: str) -> None:
        self._fail_if(f"not {-EXACT} <= {value} <= {EXACT}", place, value)

    def _offset(self, place: tuple[str, ...], tz: object, value: str) -> None:
        zone = self._name()
        self._line(f"{zone} = {value}.tzinfo")
        if tz is False:
            self._fail_if(f"{zone} is not None", place, value)
            return
        odd = f"not {self._name(_has_whole_minutes)}({value})"
        no_zone = f"{zone} is None or" if tz else f"{zone} is not None and"
        self._fail_if(f"{zone} is not UTC and ({no_zone} {odd})", place, value)

    def _literal(self, values: tuple[Any, ...], place: tuple[str, ...], value: str) -> None:
        pairs = frozenset(zip(map(type, values), values, strict=True))
        self._fail_if(f"({value}.__class__, {value}) not in {self._name(pairs)}", place, value)

    def _constraint(self, info: inspect.Type, of: type, place: tuple[str, ...]) -> _Write | None:
        given = {name: getattr(info, name, None) for name in CONSTRAINTS}
        given = {name: limit for name, limit in given.items() if limit is not None}
        if not given:
            return None
        constrained: Any = Annotated[of, msgspec.Meta(**given)]

        def keeps(value: object) -> bool:
            try:
                msgspec.convert(value, constrained)
            except msgspec.ValidationError:
                return False
            return True

        return lambda value: self._fail_if(f"not {self._name(keeps)}({value})", place, value)

    def _size(self, info: Any, place: tuple[str, ...]) -> _Write | None:
        least, most = info.min_length, info.max_length
        if least is None and most is None:
            return None
        size = f"{least or 0} <= len({{}})" + (f" <= {most}" if most is not None else "")
        return lambda value: self._fail_if(f"not {size.format(value)}", place, value)

    # --- what a value holds ------------------------------------------------------------------

    def _any(self, value: str) -> None:
        place = ("*path",)
        with self._block(f"if {value}.__class__ is list:"):
            self._items(inspect.ListType(_ANY), place, value)
        with self._block("else:"):
            self._pairs(inspect.DictType(inspect.StrType(), _ANY), place, value)

    def _items(self, info: _Collection, place: tuple[str, ...], value: str) -> None:
        if size := self._size(info, place):
            size(value)
        inner, item, index = info.item_type, self._name(), self._name()
        if isinstance(info, (inspect.SetType, inspect.FrozenSetType)):
            step, head = f"{{{item}}}", f"for {item} in {value}:"
        else:
            step = f"[{index}]"
            head = f"for {index}, {item} in enumerate({value}):"
        if self._finding:
            with self._block(head):
                self._value(inner, item, (*place, step))
        else:
            self._all(inner, item, value, (*place, step))

    def _all(self, info: inspect.Type, item: str, values: str, place: tuple[str, ...]) -> None:
        """Check many values, by their types alone where that is all."""
        cases = self._cases(info, place)
        if cases == {str: None}:
            self._line(f"''.join({values})")  # raises for what is no str, thrice as quick
            return
        if not any(cases.values()):
            first, *others = cases
            if others:
                all_fit = f"{self._name(frozenset(cases))}.issuperset(map(type, {values}))"
            else:
                all_fit = self._all_of(first, values)
            self._fail_if(f"not {all_fit}", place, values)
            return
        head = f"for {item} in {values}:"
        if cases.keys() == {float, int} and not self._constraint(info, float, place):
            all_finite = f"{self._all_of(float, values)} and isfinite(sum({values}))"
            with self._block(f"if not ({all_finite}):"), self._block(head):
                self._value(info, item, place)
            return
        with self._block(head):
            self._value(info, item, place)

    def _all_of(self, type_: type, values: str) -> str:
        return f"(countOf(map(type, {values}), {self._name(type_)}) == len({values}))"

    def _positions(
        self, infos: tuple[inspect.Type, ...], place: tuple[str, ...], value: str
    ) -> None:
        self._fail_if(f"len({value}) != {len(infos)}", place, value)
        with self._block("else:"):
            self._line("pass")
            for index, info in enumerate(infos):
                self._value(info, f"{value}[{index}]", (*place, f"[{index}]"))

    def _pairs(self, info: inspect.DictType, place: tuple[str, ...], value: str) -> None:
        if size := self._size(info, place):
            size(value)
        key, item = self._name(), self._name()
        keys = inspect.StrType() if _is_any(info.key_type) else info.key_type
        key_place, item_place = (*place, f"{{{key}}}"), (*place, f"[{key}]")
        if self._finding:
            with self._block(f"for {key}, {item} in {value}.items():"):
                self._value(keys, key, key_place)
                self._value(info.value_type, item, item_place)
        else:
            self._all(keys, key, value, key_place)
            self._all(info.value_type, item, f"{value}.values()", item_place)

    def _entries(self, info: inspect.TypedDictType, place: tuple[str, ...], value: str) -> None:
        known = self._name(frozenset(each.name for each in info.fields))
        required = self._name(frozenset(each.name for each in info.fields if each.required))
        self._fail_if(f"not {required} <= {value}.keys() <= {known}", place, value)
        with self._block("else:"):
            self._line("pass")
            for each in info.fields:
                with self._block(f"if {each.name!r} in {value}:"):
                    self._value(
                        each.type, f"{value}[{each.name!r}]", (*place, repr(f".{each.name}"))
                    )

    def _instance(self, info: _Class, place: tuple[str, ...], value: str) -> None:
        cls = _class_of(info)
        if reason := why_not_built(cls):
            raise UnsupportedFieldError(f"field {_field(place)}: {reason}")
        if cls not in self._seen:
            self._seen.add(cls)
            self._members(info, place, value)
            return
        # Once more: two classes with many fields of each other's would else grow without end.
        self._call(info.cls, partial(self._members, info, ("*path",)), place, value)

    def _members(self, info: _Class, place: tuple[str, ...], value: str) -> None:
        if not self._finding and _may_be_wrong_since_made(_class_of(info)):
            self._line("return False")
        for each in info.fields:
            plain = each.name.isascii() and not keyword.iskeyword(each.name)
            member = f"{value}.{each.name}" if plain else f"getattr({value}, {each.name!r})"
            self._value(each.type, member, (*place, repr(f".{each.name}")))


def _both(first: _Write, second: _Write | None) -> _Write:
    def write(value: str) -> None:
        first(value)
        if second is not None:
            second(value)

    return write


def _path(place: tuple[str, ...]) -> str:
    return f"({', '.join(place)},)" if place else "()"


def _field(place: tuple[str, ...]) -> str:
    """Return the readable name of a place: `customer.tags[]`."""
    return "".join(step.strip("'") if step[0] == "'" else "[]" for step in place).lstrip(".")


def _class_of(info: _Class) -> type:
    """Return the class; `Change` for `Change[str]`."""
    return get_origin(info.cls) or info.cls


def why_not_built(cls: type) -> str | None:
    """Return why a receiver could not build instances of a class, and the cure."""
    if "__pydantic_validator__" not in vars(cls):
        return None
    return (
        f"{cls.__qualname__} is a dataclass of pydantic, whose defaults and constraints would not "
        f"apply to what is received: use `dataclasses.dataclass`, with constraints as in "
        f"`Annotated[int, msgspec.Meta(ge=0)]`"
    )


def _may_be_wrong_since_made(cls: Any) -> bool:
    """Return whether a class checks its values when it is made and allows changes later."""
    if not hasattr(cls, "__post_init__"):
        return False
    parameters = getattr(cls, "__dataclass_params__", None) or getattr(
        cls, "__struct_config__", None
    )
    return not getattr(parameters, "frozen", False)


def _is_any(info: inspect.Type) -> bool:
    match info:
        case inspect.AnyType() | inspect.CustomType(cls=builtins.object):
            return True
        case _:
            return False


def _check_key(info: inspect.DictType, place: tuple[str, ...]) -> None:
    key = info.key_type
    while isinstance(key, inspect.Metadata):
        key = key.type
    if isinstance(key, inspect.LiteralType):
        known = len({type(value) for value in key.values}) == 1
    else:
        known = isinstance(key, KEYS) or _is_any(key)
    if not known:
        raise UnsupportedFieldError(
            f"field {_field(place)}: its keys cannot be restored from JSON: let all be "
            f"of one type, such as str, int, UUID, date or an Enum"
        )
