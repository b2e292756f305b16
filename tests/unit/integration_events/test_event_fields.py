"""Field types that work, and those that are refused when a class is first used: with which words."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from types import GenericAlias
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import pytest

from events.errors import EventDefinitionError, EventEncodeError
from events.integration.codec import codec_of
from events.integration.event import EventRegistry, IntegrationEvent

T = TypeVar("T")


class Event(IntegrationEvent, abstract=True):
    """Keeps the tests' events out of the global registry."""

    registry = EventRegistry()


@dataclass
class Change(Generic[T]):
    old: T
    new: T


class ChangeStruct(msgspec.Struct, Generic[T]):
    old: T
    new: T


class ChangeTuple(NamedTuple, Generic[T]):
    old: T
    new: T


@dataclass
class Longer(Change[T]):
    why: str = ""


class Huge(Enum):
    SMALL = 1
    BIG = 2**63


@dataclass
class Box:
    size: Huge


@dataclass
class Shelf:
    boxes: dict[str, list[Box]]


@pytest.fixture(autouse=True)
def _apart() -> Iterator[None]:
    yield
    for event_class in [*Event.registry.values()]:
        Event.registry.remove(event_class)


# --- generic classes with arguments -----------------------------------------------------------


@dataclass
class Renamed(Event):
    type = "renamed"
    version = 1
    name: Change[str] | None = None
    size: ChangeStruct[int] | None = None
    place: ChangeTuple[str] | None = None
    all: list[Change[Change[int]]] = field(default_factory=list)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": Change("a", "b")},
        {"name": Change[str]("a", "b")},
        {"size": ChangeStruct(1, 2)},
        {"place": ChangeTuple("a", "b")},
        {"all": [Change(Change(1, 2), Change(3, 4)), Change(Change(5, 6), Change(7, 8))]},
    ],
)
def test_a_generic_class_with_arguments_comes_back(fields: dict[str, Any]) -> None:
    event = Renamed(**fields)
    codec = codec_of(Renamed)
    assert codec.decode(codec.encode(event)) == event
    assert Renamed.from_dict(event.to_dict()) == event


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": Change("a", 2)}, r"\$\.name\.new: Expected `str`, got `int`"),
        ({"size": ChangeStruct("a", 2)}, r"\$\.size\.old: Expected `int`, got `str`"),
        ({"place": ChangeTuple("a", 2)}, r"\$\.place\.new: Expected `str`, got `int`"),
        (
            {"name": Longer("a", "b")},
            r"\$\.name: it is a Longer, of which only the fields of Change",
        ),
        (
            {"all": [Change(Change(1, 2), Change(3, "4"))]},
            r"\$\.all\[0\]\.new\.new: Expected `int`, got `str`",
        ),
    ],
)
def test_what_a_generic_class_holds_is_checked(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(EventEncodeError, match=said):
        Renamed(**fields).to_dict()


# --- dataclasses of pydantic ------------------------------------------------------------------

PYDANTIC = r"Limits is a dataclass of pydantic, .* use `dataclasses.dataclass`, with constraints"


def test_a_dataclass_of_pydantic_is_refused_as_an_event() -> None:
    pydantic = pytest.importorskip("pydantic")

    @pydantic.dataclasses.dataclass
    class Limits(Event):
        type = "limits"
        version = 1
        at_most: int = pydantic.Field(ge=0)
        tags: list[str] = pydantic.Field(default_factory=list)

    for use in (codec_of, lambda cls: cls.from_dict({"type": "limits", "version": 1})):
        with pytest.raises(EventDefinitionError, match=PYDANTIC):
            use(Limits)
    with pytest.raises(EventDefinitionError, match=PYDANTIC):
        Limits(1).to_dict()  # type: ignore[call-arg]


def test_a_dataclass_of_pydantic_is_refused_in_a_field() -> None:
    pydantic = pytest.importorskip("pydantic")

    @pydantic.dataclasses.dataclass
    class Limits:
        at_most: int = pydantic.Field(ge=0)

    body = {"type": "limited", "version": 1, "__annotations__": {"by": list[Limits]}}
    limited: type[Any] = dataclass(
        types.new_class("Limited", (Event,), {}, lambda ns: ns.update(body))
    )
    with pytest.raises(EventDefinitionError, match=rf"Limited: field by\[\]: .*{PYDANTIC}"):
        codec_of(limited)


# --- what msgspec cannot carry: which field, of which class -----------------------------------


@dataclass
class Stored(Event):
    type = "stored"
    version = 1
    shelf: Shelf | None = None


def test_an_enum_beyond_64_bits_names_the_field_that_has_it() -> None:
    with pytest.raises(
        EventDefinitionError, match=r"Stored: field shelf\.boxes\.size: Integer values > \(2\*\*63"
    ):
        codec_of(Stored)


NESTED = """
from __future__ import annotations
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from decimal import Decimal

@dataclass
class Money:
    currency: str
    amount: Decimal

@dataclass
class Line:
    price: Money | None = None
"""


def test_a_name_that_a_nested_class_lacks_is_reported_with_its_place() -> None:
    module = types.ModuleType("tests_of_nested_annotations")
    sys.modules[module.__name__] = module
    try:
        exec(compile(NESTED, "nested", "exec", dont_inherit=True), module.__dict__)
        line: Any = module.__dict__["Line"]
        body = {
            "type": "bought",
            "version": 1,
            "__annotations__": {"lines": GenericAlias(list, line)},
        }
        bought: type[Any] = dataclass(
            types.new_class("Bought", (Event,), {}, lambda ns: ns.update(body))
        )
        with pytest.raises(
            EventDefinitionError,
            match=r"Bought: field lines\.price\.amount: its annotation in Money names 'Decimal', "
            r"which the module tests_of_nested_annotations does not have: define it at",
        ):
            codec_of(bought)
    finally:
        del sys.modules[module.__name__]


@dataclass
class Tree:
    value: complex
    branches: list[Tree] = field(default_factory=list)


def test_a_class_that_contains_itself_ends_the_search() -> None:
    @dataclass
    class Grown(Event):
        type = "grown"
        version = 1
        tree: Tree

    with pytest.raises(EventDefinitionError, match=r"Grown: field tree\.value: .*complex"):
        codec_of(Grown)


@pytest.mark.parametrize("wrap", [list, tuple, dict], ids=["list", "tuple", "dict"])
def test_a_field_may_be_nested_deeper_than_python_nests_blocks(wrap: Any) -> None:
    hint: Any = int
    fits: Any = 1
    wrong: Any = "1"
    for _ in range(60):
        arguments: dict[Any, Any] = {list: hint, tuple: (hint, int), dict: (str, hint)}
        hint = GenericAlias(wrap, arguments[wrap])
        made: dict[Any, Any] = {
            list: lambda each: [each],
            tuple: lambda each: (each, 0),
            dict: lambda each: {"a": each},
        }
        fits, wrong = map(made[wrap], (fits, wrong))
    body = {"type": "deep", "version": 1, "__annotations__": {"x": hint}}
    deep: type[Any] = dataclass(types.new_class("Deep", (Event,), {}, lambda ns: ns.update(body)))
    codec = codec_of(deep)
    assert codec.decode(codec.encode(deep(fits))) == deep(fits)
    with pytest.raises(EventEncodeError, match=r"\$\.x(\[[^]]*\]){60}: Expected `int`, got `str`"):
        codec.encode(deep(wrong))
