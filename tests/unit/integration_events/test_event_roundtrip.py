"""Round trips of generated event classes: to bytes, to a dict, through `json`, and back."""

from __future__ import annotations

import datetime as dt
import json
import math
import string
from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from types import GenericAlias
from typing import Annotated, Any, Literal, NamedTuple, NewType, TypeAlias, TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from events.errors import EventEncodeError
from events.integration.codec import codec_of
from events.integration.event import EventRegistry, IntegrationEvent

GENERATED = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Color(Enum):
    RED = "red"
    BLUE = "blue \u2764"


class Level(IntEnum):
    LOW = 1
    HIGH = 2**40


class Word(StrEnum):
    YES = "yes"


class Rights(Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    label: str = ""


class Movie(TypedDict):
    title: str


class Box(msgspec.Struct):
    wide: int


@dataclass
class Leaf:
    at: dt.datetime
    price: Decimal
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """Contains itself."""

    value: int
    children: list[Node] = field(default_factory=list)


UserId = NewType("UserId", int)

# --- types with values that fit ---------------------------------------------------------------

Typed: TypeAlias = tuple[Any, st.SearchStrategy[Any]]

text = st.text(st.characters(codec="utf-8"), max_size=8)
offsets = st.just(dt.UTC) | st.integers(-23 * 60, 23 * 60).map(
    lambda minutes: dt.timezone(dt.timedelta(minutes=minutes))
)
aware = st.datetimes(timezones=offsets)
decimals = st.decimals(allow_nan=False)
floats = st.floats(allow_nan=False, allow_infinity=False)
big = st.integers() | st.integers(-(10**60), 10**60) | st.sampled_from([2**63, 2**64, -(2**63) - 1])

KEYS: list[Typed] = [
    (str, text),
    (int, big),
    (float, floats),
    (UUID, st.uuids()),
    (dt.date, st.dates()),
    (dt.datetime, aware | st.datetimes()),
    (dt.timedelta, st.timedeltas()),
    (Decimal, decimals),
    (bytes, st.binary(max_size=4)),
    (Color, st.sampled_from(Color)),
    (Level, st.sampled_from(Level)),
    (Literal["a", "b"], st.sampled_from("ab")),
    (UserId, st.integers().map(UserId)),
]
HASHABLE: list[Typed] = [
    *KEYS,
    (bool, st.booleans()),
    (None, st.none()),
    (dt.time, st.times(timezones=st.none() | offsets)),
    (Literal[1, "a"], st.sampled_from([1, "a"])),
    (Word, st.sampled_from(Word)),
    (Rights, st.sampled_from([*Rights, Rights.READ | Rights.WRITE])),
    (Annotated[int, msgspec.Meta(ge=3)], st.integers(3)),
    (Annotated[str, msgspec.Meta(max_length=8)], text),
]
PLAIN: list[Typed] = [
    *HASHABLE,
    (Leaf, st.builds(Leaf, aware, decimals, st.none() | text)),
    (
        Node,
        st.recursive(
            st.builds(Node, st.integers(), st.just([])),
            lambda children: st.builds(Node, st.integers(), st.lists(children, max_size=2)),
            max_leaves=4,
        ),
    ),
    (Point, st.builds(Point, st.integers(), text)),
    (Movie, st.fixed_dictionaries({"title": text})),
    (Box, st.builds(Box, st.integers())),
    (bytearray, st.binary(max_size=4).map(bytearray)),
    (int | str | bool | None, st.integers() | text | st.booleans() | st.none()),
    (int | float, st.integers() | floats),
    (UUID | int | list[int], st.uuids() | st.integers() | st.lists(st.integers(), max_size=2)),
    (Leaf | None, st.none() | st.builds(Leaf, aware, decimals)),
]

json_values = st.recursive(
    st.none() | st.booleans() | big | floats | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
ANY: list[Typed] = [(Any, json_values), (object, json_values), (dict, st.dictionaries(text, big))]


def _list(item: Typed) -> Typed:
    return GenericAlias(list, item[0]), st.lists(item[1], max_size=3)


def _tuple(item: Typed) -> Typed:
    return GenericAlias(tuple, (item[0], ...)), st.lists(item[1], max_size=3).map(tuple)


def _optional(item: Typed) -> Typed:
    return item[0] | None if item[0] is not None else None, st.none() | item[1]


def _pair(items: tuple[Typed, Typed]) -> Typed:
    return GenericAlias(tuple, (items[0][0], items[1][0])), st.tuples(items[0][1], items[1][1])


def _set(item: Typed) -> Typed:
    return GenericAlias(set, item[0]), st.sets(item[1], max_size=3)


def _frozenset(item: Typed) -> Typed:
    return GenericAlias(frozenset, item[0]), st.frozensets(item[1], max_size=3)


def _dict(items: tuple[Typed, Typed]) -> Typed:
    (key, keys), (value, values) = items
    return GenericAlias(dict, (key, value)), st.dictionaries(keys, values, max_size=3)


hashables = st.sampled_from(HASHABLE)
fields_types = st.recursive(
    st.sampled_from(PLAIN + ANY) | hashables.map(_set) | hashables.map(_frozenset),
    lambda inner: (
        inner.map(_list)
        | inner.map(_tuple)
        | inner.map(_optional)
        | st.tuples(inner, inner).map(_pair)
        | st.tuples(st.sampled_from(KEYS), inner).map(_dict)
    ),
    max_leaves=3,
)
names = st.sampled_from([*string.ascii_lowercase, "_hidden", "name", "id", "data", "specversion"])


class Event(IntegrationEvent, abstract=True):
    __slots__ = ()
    registry = EventRegistry()


def make_event(members: dict[str, Any], **options: Any) -> type[Event]:
    body = {"type": 'generated.\u00fcber "it"', "version": 7, "__module__": __name__}
    return make_dataclass(
        "Generated", [*members.items()], bases=(Event,), namespace=body, **options
    )


@st.composite
def events(draw: st.DrawFn) -> Event:
    members = draw(st.dictionaries(names, fields_types, max_size=4))
    frozen, slots, kw_only = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    cls = make_event(
        {name: hint for name, (hint, _) in members.items()},
        frozen=frozen,
        slots=slots,
        kw_only=kw_only,
    )
    return cls(**{name: draw(values) for name, (_, values) in members.items()})


@GENERATED
@given(events())
def test_the_round_trip_is_the_identity(event: Event) -> None:
    cls = type(event)
    body = codec_of(cls).encode(event)
    payload = event.to_dict()
    before = json.dumps(payload)

    assert_same(codec_of(cls).decode(body), event)
    assert_same(cls.from_dict(payload), event)
    assert_same(Event.from_dict(json.loads(before)), event)
    assert json.dumps(payload) == before
    assert_same(Event.from_dict(json.loads(body)), event)
    assert [*payload][:2] == ["type", "version"]


def assert_same(found: Any, wanted: Any) -> None:
    assert type(found) is type(wanted)
    assert found == wanted
    # 1 == True == 1.0, but a field keeps which one it was.
    assert repr_types(found) == repr_types(wanted)


def repr_types(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(map(str, map(repr_types, value)))
    if isinstance(value, dict):
        return type(value), [(repr_types(k), repr_types(v)) for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [repr_types(each) for each in value]
    if hasattr(value, "__dataclass_fields__"):
        return type(value), [
            repr_types(getattr(value, name)) for name in value.__dataclass_fields__
        ]
    return type(value)


# --- what JSON would change is refused --------------------------------------------------------

LMT = ZoneInfo("Europe/Berlin")  # +00:53:28 until 1893
NAN = st.sampled_from([math.nan, math.inf, -math.inf])


@dataclass
class BigLeaf(Leaf):
    more: int = 0


@dataclass
class Holder:
    at: dt.datetime
    ratio: float = 0.0
    leaf: Leaf | None = None


class Text(str):
    __slots__ = ()


UTC_NOW = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
OLD = dt.datetime(1880, 1, 1, tzinfo=LMT)
REFUSED: list[tuple[Any, Any, str]] = [
    (float, math.nan, r"^\$.x: nan has no JSON form: use a Decimal, or None"),
    (float, math.inf, r"^\$.x: inf has no JSON form"),
    (float | None, -math.inf, r"^\$.x: -inf has no JSON form"),
    (list[float], [1.0, math.nan], r"^\$.x\[1\]: nan"),
    (list[float], [math.inf, -math.inf], r"^\$.x\[0\]: inf"),
    (tuple[int, float], (1, math.nan), r"^\$.x\[1\]: nan"),
    (dict[str, float], {"a": math.nan}, r"^\$.x\['a'\]: nan"),
    (dict[float, str], {math.nan: "a"}, r"^\$.x\[nan\]: nan"),
    (set[float], {math.nan}, r"^\$.x\[nan\]: nan"),
    (Any, [{"a": math.inf}], r"^\$.x\[0\]\['a'\]: inf"),
    (Any, (1, 2), r"^\$.x: a tuple would be decoded as a list: annotate the field"),
    (Any, {"id": UUID(int=1)}, r"^\$.x\['id'\]: a UUID would be decoded as a str"),
    (Any, {1: 2}, r"^\$.x\[1\]: 1, a int, would be decoded as another type"),
    (dict, {1: 2}, r"^\$.x\[1\]: 1, a int, would"),
    (dict[str, Any], {"a": {1}}, r"^\$.x\['a'\]: a set would be decoded as a list"),
    (object, Decimal(1), r"^\$.x: a Decimal would be decoded as a str"),
    (list, [b"a"], r"^\$.x\[0\]: a bytes would be decoded as a str"),
    (dt.datetime, OLD, r"^\$.x: .* has a UTC offset with seconds, which RFC 3339 has not: use UTC"),
    (dt.datetime | None, OLD, r"^\$.x: .* UTC offset with seconds"),
    (list[dt.datetime], [UTC_NOW, OLD], r"^\$.x\[1\]: .* UTC offset with seconds"),
    (dict[dt.datetime, int], {OLD: 1}, r"^\$.x\[.*\]: .* UTC offset with seconds"),
    (dt.time, dt.time(1, tzinfo=LMT), r"^\$.x: .* has a zone but no UTC offset: use UTC"),
    (Holder, Holder(OLD), r"^\$.x.at: .* UTC offset with seconds"),
    (Holder, Holder(UTC_NOW, math.nan), r"^\$.x.ratio: nan"),
    (Leaf, BigLeaf(UTC_NOW, Decimal(1)), r"^\$.x: it is a BigLeaf, of which only the fields of Leaf"),
    (list[Holder], [Holder(UTC_NOW, 0, BigLeaf(UTC_NOW, Decimal(1)))], r"^\$.x\[0\].leaf: it is a"),
    (str, Text("a"), r"^\$.x: Encoding objects of type Text is unsupported"),
    (object, object(), r"^\$.x: Encoding objects of type object is unsupported"),
    (list[Any], [1, object()], r"^\$.x\[1\]: Encoding objects of type object is unsupported"),
]  # fmt: skip


@pytest.mark.parametrize(("hint", "value", "text"), REFUSED, ids=range(len(REFUSED)))
def test_what_would_change_is_refused_at_encoding(hint: Any, value: Any, text: str) -> None:
    event = make_event({"x": hint})(x=value)  # type: ignore[call-arg]
    match = text.replace("^", "^cannot encode Generated: ")
    with pytest.raises(EventEncodeError, match=match):
        codec_of(type(event)).encode(event)
    with pytest.raises(EventEncodeError, match=match):
        event.to_dict()


@pytest.mark.parametrize(
    ("hint", "value", "text"),
    [
        (str, "\ud800", r"\$.x: it has a lone surrogate, .* at 0: send whole characters"),
        (int, 10**5000, "Exceeds the limit"),
    ],
    ids=["surrogate", "digits"],
)
def test_what_json_cannot_write_is_refused_at_encoding(hint: Any, value: Any, text: str) -> None:
    event = make_event({"x": hint})(x=value)  # type: ignore[call-arg]
    with pytest.raises(EventEncodeError, match=text):
        codec_of(type(event)).encode(event)


def test_an_event_that_contains_itself_is_refused() -> None:
    event = make_event({"x": Any})(x=[])  # type: ignore[call-arg]
    event.x.append(event.x)  # type: ignore[attr-defined]
    with pytest.raises(EventEncodeError, match="nested too deeply, or contains itself"):
        codec_of(type(event)).encode(event)
    with pytest.raises(EventEncodeError, match="nested too deeply, or contains itself"):
        event.to_dict()


@GENERATED
@given(st.lists(st.floats(), max_size=5))
def test_floats_are_refused_or_come_back(values: list[float]) -> None:
    event = make_event({"x": list[float]})(x=values)  # type: ignore[call-arg]
    codec = codec_of(type(event))
    try:
        body = codec.encode(event)
    except EventEncodeError:
        assert not all(map(math.isfinite, values))
    else:
        assert codec.decode(body) == event


@GENERATED
@given(st.datetimes(timezones=st.timezones()) | st.datetimes(), st.times(timezones=st.timezones()))
def test_zones_are_refused_or_keep_the_instant(at: dt.datetime, clock: dt.time) -> None:
    for hint, value in ((dt.datetime, at), (dt.time, clock)):
        event = make_event({"x": hint})(x=value)  # type: ignore[call-arg]
        codec = codec_of(type(event))
        try:
            back: Any = codec.decode(codec.encode(event))
        except EventEncodeError:
            continue
        assert (back.x.utcoffset(), back.x.replace(tzinfo=None, fold=0)) == (
            value.utcoffset(),
            value.replace(tzinfo=None, fold=0),
        )


WRAPPED: dict[str, Callable[[Typed], Typed]] = {
    "bare": lambda item: item,
    "list": _list,
    "tuple": _tuple,
    "optional": _optional,
    "pair": lambda item: _pair((item, (int, st.integers(0, 9)))),
    "dict": lambda item: _dict(((str, text), item)),
    "deep": lambda item: _list(_optional(_dict(((UUID, st.uuids()), _tuple(item))))),
}


@settings(GENERATED, max_examples=600)
@given(
    st.sampled_from([*WRAPPED.values()]),
    st.sampled_from(PLAIN + ANY),
    st.sampled_from(PLAIN + ANY),
    st.data(),
)
def test_what_is_accepted_comes_back_and_what_no_consumer_could_read_is_refused(
    wrapped: Callable[[Typed], Typed], field_type: Typed, held: Typed, data: st.DataObject
) -> None:
    """A field holds values of another field's type, in the same place."""
    cls = make_event({"x": wrapped(field_type)[0], "y": Leaf | None})
    event = cls(x=data.draw(wrapped(held)[1]), y=None)  # type: ignore[call-arg]
    codec = codec_of(cls)
    try:
        received = msgspec.json.decode(msgspec.json.encode(event), type=cls)
    except Exception:  # noqa: BLE001 - whatever it is: no consumer gets the event
        for encode in (codec.encode, cls.to_dict):
            with pytest.raises(EventEncodeError):
                encode(event)
        return
    try:
        body = codec.encode(event)
    except EventEncodeError:
        assert received != event or repr_types(received) != repr_types(event)
        with pytest.raises(EventEncodeError):
            event.to_dict()
    else:
        assert with_lists(codec.decode(body)) == with_lists(event)
        assert cls.from_dict(event.to_dict()) == received


def with_lists(value: Any) -> Any:
    """Take lists for tuples: a Sequence may be either, and arrives as a list."""
    if isinstance(value, (list, tuple)):
        return [with_lists(each) for each in value]
    if isinstance(value, dict):
        return {key: with_lists(each) for key, each in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        names = value.__dataclass_fields__
        return type(value), [with_lists(getattr(value, name)) for name in names]
    return value


def test_the_generated_class_of_one_example_is_the_last_ones_successor() -> None:
    before = len(Event.registry)
    make_event({"x": int})
    make_event({"x": str})
    assert len(Event.registry) <= before + 1
