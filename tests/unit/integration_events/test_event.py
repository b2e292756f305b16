from __future__ import annotations

import dataclasses
import json
import pickle
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar, NamedTuple, Protocol
from uuid import UUID

import msgspec
import pytest

from events.errors import (
    EventDefinitionError,
    EventEncodeError,
    InvalidEventError,
    MalformedEventError,
    UnknownEventError,
)
from events.integration.codec import codec_of
from events.integration.event import EventKey, EventRegistry, IntegrationEvent


class Event(IntegrationEvent, abstract=True):
    """Keeps the tests' events out of the global registry, and from one another."""

    __slots__ = ()
    registry = EventRegistry()


@pytest.fixture(autouse=True)
def _apart() -> Iterator[None]:
    for event_class in [*Event.registry.values()]:
        Event.registry.remove(event_class)
    yield
    for event_class in [*Event.registry.values()]:
        Event.registry.remove(event_class)


@dataclass
class Address:
    city: str


class Box:
    """Nothing that msgspec knows."""


# --- both forms -------------------------------------------------------------------------------

BODIES = {
    "plain": 'type = "user.registered"\n    version = 1',
    "annotated": 'type: str = "user.registered"\n    version: int = 1',
    "classvar": 'type: ClassVar[str] = "user.registered"\n    version: ClassVar[int] = 1',
}
DECORATORS = ["", "(frozen=True)", "(slots=True)", "(frozen=True, slots=True)"]


@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"])
@pytest.mark.parametrize("decorator", DECORATORS)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_type_and_version_are_no_fields_in_either_form(
    future: str, decorator: str, body: str
) -> None:
    source = (
        f"{future}from dataclasses import dataclass\nfrom typing import ClassVar\n"
        f"@dataclass{decorator}\nclass Registered(Event):\n    {body}\n    email: str\n    age: int = 3\n"
    )
    name = f"tests_of_{abs(hash(source))}"
    module = types.ModuleType(name)
    module.__dict__["Event"] = Event
    sys.modules[name] = module
    try:
        # Compiled without this module's own `from __future__`.
        exec(compile(source, name, "exec", dont_inherit=True), module.__dict__)
        cls = module.__dict__["Registered"]
        assert [each.name for each in dataclasses.fields(cls)] == ["email", "age"]
        event = cls("a@b.c")
        assert (event.email, event.type, event.version) == ("a@b.c", "user.registered", 1)
        assert (cls.type, cls.version) == ("user.registered", 1)
        assert event == cls.from_dict(event.to_dict())
        assert event.to_dict() == {
            "type": "user.registered",
            "version": 1,
            "email": "a@b.c",
            "age": 3,
        }
        assert [*Event.registry.values()] == [cls]
        if "slots" in decorator:
            assert not hasattr(event, "__dict__")
    finally:
        del sys.modules[name]


def test_keyword_only_fields_work() -> None:
    @dataclass(kw_only=True, frozen=True, slots=True)
    class Registered(Event):
        type: str = "a"  # type: ignore[misc]  # pyright: ignore[reportIncompatibleVariableOverride]
        version: int = 1  # type: ignore[misc]  # pyright: ignore[reportIncompatibleVariableOverride]
        name: str = "x"
        email: str

    event = Registered(email="e")
    assert Registered.from_dict(event.to_dict()) == event


# --- what a class must give -------------------------------------------------------------------


def test_type_is_needed() -> None:
    with pytest.raises(
        EventDefinitionError, match=r"NoType: it has no type: set both .*abstract=True"
    ):

        class NoType(Event):  # pyright: ignore[reportUnusedClass]
            version = 1


def test_version_is_needed() -> None:
    with pytest.raises(EventDefinitionError, match=r"NoVersion: it has no version: set both"):

        class NoVersion(Event):  # pyright: ignore[reportUnusedClass]
            type = "a"


@pytest.mark.parametrize("version", [0, -1, True, "1", 1.0])
def test_a_version_is_an_int_from_1_on(version: object) -> None:
    with pytest.raises(EventDefinitionError, match=r"its version must be an int of 1 or more"):
        types.new_class("E", (Event,), {}, lambda body: body.update(type="a", version=version))


@pytest.mark.parametrize("type_", ["", 1, "a\n", "\ud800", b"a"])
def test_a_type_is_a_printable_str(type_: object) -> None:
    with pytest.raises(EventDefinitionError, match=r"its type must be a printable, non-empty"):
        types.new_class("E", (Event,), {}, lambda body: body.update(type=type_, version=1))


def test_nothing_refused_is_registered() -> None:
    with pytest.raises(EventDefinitionError):
        types.new_class("E", (Event,), {}, lambda body: body.update(type="a", version=0))
    assert len(Event.registry) == 0


@pytest.mark.parametrize("slots", [False, True])
def test_an_abstract_class_needs_neither(slots: bool) -> None:
    @dataclass(slots=slots)  # type: ignore[literal-required]
    class Base(Event, abstract=True):
        name: str

    @dataclass(slots=slots)  # type: ignore[literal-required]
    class Concrete(Base):
        type = "a"
        version = 1
        size: int

    assert [*Event.registry] == [EventKey("a", 1)]
    event = Concrete("n", 2)
    assert Base.from_dict(event.to_dict()) == event
    with pytest.raises(
        EventDefinitionError, match="Base: it is abstract: use one of its subclasses"
    ):
        Base("n").to_dict()


def test_an_abstract_class_may_give_the_type_alone() -> None:
    class UserRegistered(Event, abstract=True):
        type = "user.registered"

    class V1(UserRegistered):
        version = 1

    class V2(UserRegistered):
        version = 2

    assert dict(Event.registry.versions("user.registered")) == {1: V1, 2: V2}


def test_a_subclass_of_a_concrete_event_gives_its_own() -> None:
    @dataclass
    class V1(Event):
        type = "a"
        version = 1
        name: str

    with pytest.raises(
        EventDefinitionError, match=r"Twin: it inherits type 'a' and version 1 from .*V1"
    ):

        class Twin(V1):  # pyright: ignore[reportUnusedClass]
            pass

    @dataclass
    class V2(V1):
        version = 2
        size: int

    assert (V2.type, V2.version) == ("a", 2)
    assert IntegrationEvent.registry.get(EventKey("a", 2)) is None
    assert codec_of(V1).event_class is V1
    assert codec_of(V2).event_class is V2
    assert Event.from_dict(V2("n", 1).to_dict()) == V2("n", 1)


def test_two_classes_cannot_have_one_key() -> None:
    class First(Event):
        type = "a"
        version = 1

    with pytest.raises(
        EventDefinitionError, match=r"Second: .*First already has type 'a' and version 1"
    ):

        class Second(Event):  # pyright: ignore[reportUnusedClass]
            type = "a"
            version = 1

    assert Event.registry[EventKey("a", 1)] is First


def test_the_error_of_a_key_that_is_taken_says_how_to_keep_classes_apart() -> None:
    class First(Event):  # pyright: ignore[reportUnusedClass]
        type = "a"
        version = 1

    with pytest.raises(
        EventDefinitionError, match=r"change the type or version .* `registry = Even"
    ):

        class Second(Event):  # pyright: ignore[reportUnusedClass]
            type = "a"
            version = 1

    class Apart(IntegrationEvent, abstract=True):
        registry = EventRegistry()

    class Third(Apart):
        type = "a"
        version = 1

    assert type(Apart.from_dict({"type": "a", "version": 1})) is Third


def test_a_class_made_again_replaces_itself() -> None:
    def make() -> type[Event]:
        @dataclass(slots=True)
        class Again(Event):
            type = "a"
            version = 1
            name: str

        return Again

    first, second = make(), make()
    assert first is not second
    assert Event.registry[EventKey("a", 1)] is second
    Event.registry.remove(first)
    assert Event.registry[EventKey("a", 1)] is second


def test_upcast_must_be_a_classmethod() -> None:
    with pytest.raises(EventDefinitionError, match="its `upcast` is not a classmethod"):

        class E(Event):  # pyright: ignore[reportUnusedClass]
            type = "a"
            version = 2

            def upcast(self, payload: dict[str, Any]) -> dict[str, Any]:
                return payload


# --- registry ---------------------------------------------------------------------------------


def test_the_registry_is_a_mapping() -> None:
    class E(Event):
        type = "a"
        version = 1

    registry = Event.registry
    assert registry[EventKey("a", 1)] is E
    assert registry[("a", 1)] is E  # type: ignore[index]
    assert registry.get(EventKey("a", 2)) is None
    assert EventKey("b", 1) not in registry
    assert "a" not in registry  # type: ignore[comparison-overlap]
    assert [*registry.items()] == [(EventKey("a", 1), E)]
    assert (len(registry), repr(registry)) == (1, "<EventRegistry of 1 classes>")
    assert dict(registry.versions("b")) == {}
    registry.remove(E)
    registry.remove(E)
    assert len(registry) == 0


def test_the_global_registry_has_no_events_of_a_private_one() -> None:
    class E(Event):
        type = "test.private"
        version = 1

    assert E.registry is Event.registry is not IntegrationEvent.registry
    assert EventKey("test.private", 1) not in IntegrationEvent.registry


def test_a_key_is_small_and_hashable() -> None:
    assert {EventKey("a", 1): 2}[EventKey("a", 1)] == 2
    assert EventKey("a", 1) == ("a", 1)


# --- fields -----------------------------------------------------------------------------------


class Forgotten(Event):
    type = "forgotten"
    version = 1
    email: str


@pytest.mark.parametrize("use", [lambda: Forgotten.from_dict({"type": "forgotten", "version": 1}),
                                 lambda: Forgotten().to_dict(), lambda: codec_of(Forgotten)])  # fmt: skip
def test_a_forgotten_decorator_is_found_at_first_use(use: Any) -> None:
    text = (
        r"Forgotten: Forgotten declares fields \(email\) but is not a dataclass: add `@dataclass`"
    )
    with pytest.raises(EventDefinitionError, match=text):
        use()


def test_a_forgotten_decorator_is_found_by_making_one() -> None:
    with pytest.raises(EventDefinitionError, match="it is not a dataclass: add `@dataclass`"):
        Forgotten(email="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def test_a_forgotten_decorator_below_a_dataclass_is_found() -> None:
    @dataclass
    class V1(Event):
        type = "a"
        version = 1
        name: str

    class V2(V1):
        version = 2
        size: int

    with pytest.raises(
        EventDefinitionError, match=r"V2 declares fields \(size\) but is not a dataclass"
    ):
        V2("n").to_dict()


def test_what_an_init_sets_beside_the_fields_would_be_lost() -> None:
    class Bare(Event):
        type = "bare"
        version = 1

        def __init__(self, name: str) -> None:
            self.name = name

    @dataclass
    class V1(Event):
        type = "a"
        version = 1
        name: str

    class V2(V1):
        version = 2

        def __init__(self, name: str, size: int) -> None:
            super().__init__(name)
            self.size = size

    for event, name in (Bare("n"), "Bare"), (V2("n", 1), "V2"):
        text = rf"{name} has an `__init__` but is not a dataclass, so attributes"
        with pytest.raises(EventDefinitionError, match=text):
            event.to_dict()


def test_a_dataclass_may_have_an_init_of_its_own() -> None:
    @dataclass(init=False)
    class Sum(Event):
        type = "sum"
        version = 1
        total: int

        def __init__(self, *parts: int) -> None:
            self.total = sum(parts)

    assert Sum.from_dict(Sum(1, 2).to_dict()) == Sum(3)


def test_a_protocol_before_the_event_has_no_init_of_its_own() -> None:
    class Audited(Protocol):
        def audit(self) -> str: ...

    @dataclass
    class Named(Event, abstract=True):
        name: str

    class Ping(Audited, Event):
        type = "ping"
        version = 1

        def audit(self) -> str:
            return "pinged"

    class Renamed(Audited, Named):
        type = "renamed"
        version = 1

        def audit(self) -> str:
            return self.name

    for event_class in (Ping, Renamed):
        assert codec_of(event_class).event_class is event_class
    assert Ping().to_dict() == {"type": "ping", "version": 1}
    assert Renamed("Ada").to_dict() == {"type": "renamed", "version": 1, "name": "Ada"}


def test_an_event_may_be_made_before_it_is_looked_at_with_a_protocol_before_it() -> None:
    class Audited(Protocol):
        def audit(self) -> str: ...

    class Ping(Audited, Event):
        type = "ping"
        version = 1

        def audit(self) -> str:
            return "pinged"

    assert Ping().to_dict() == {"type": "ping", "version": 1}


def test_a_field_cannot_be_named_registry() -> None:
    body = {"type": "registered", "version": 1, "registry": "eu"}
    with pytest.raises(EventDefinitionError, match="`registry` is reserved for the registry"):
        types.new_class("Registered", (Event,), exec_body=lambda namespace: namespace.update(body))


def test_a_class_without_fields_needs_no_decorator() -> None:
    class Ping(Event):
        type = "ping"
        version = 1
        LIMIT: ClassVar[int] = 3

    body = codec_of(Ping).encode(Ping())
    assert body == b'{"type":"ping","version":1}'
    assert isinstance(codec_of(Ping).decode(body), Ping)
    assert Ping().to_dict() == {"type": "ping", "version": 1}
    assert isinstance(Event.from_dict({"type": "ping", "version": 1, "more": 1}), Ping)


@dataclass
class BadBox(Event):
    type = "bad"
    version = 1
    name: str
    box: list[Box]


@dataclass
class BadUnion(Event):
    type = "bad"
    version = 2
    name: str
    either: str | UUID


@dataclass
class BadKeys(Event):
    type = "bad"
    version = 3
    table: dict[tuple[int, int], str]


@dataclass
class MixedKeys(Event):
    type = "bad"
    version = 4
    table: dict[int | str, str]


@dataclass
class BoolKeys(Event):
    type = "bad"
    version = 5
    table: dict[bool, str]


@dataclass
class BadRaw(Event):
    type = "bad"
    version = 6
    raw: msgspec.Raw


@dataclass
class Nowhere(Event):
    type = "bad"
    version = 7
    thing: Missing  # type: ignore[name-defined]  # noqa: F821


@dataclass
class InitVars(Event):
    type = "bad"
    version = 8
    seed: dataclasses.InitVar[int]


@dataclass
class Named:
    registry: str


@dataclass
class Reserved(Event):
    type = "bad"
    version = 9
    to_dict: str  # type: ignore[assignment]


class Deep(NamedTuple):
    boxes: dict[str, Box]


@dataclass
class DeepBox(Event):
    type = "bad"
    version = 10
    deep: tuple[Deep, int]


UNSUPPORTED = [
    (BadBox, r"BadBox: field box\[\]: <class '.*Box'> has no JSON form: use fields that the rec"),
    (BadUnion, r"BadUnion: field either: Type unions may not contain more than one str-like"),
    (BadKeys, r"BadKeys: field table: its keys cannot be restored from JSON"),
    (MixedKeys, r"MixedKeys: field table: its keys cannot be restored"),
    (BoolKeys, r"BoolKeys: field table: its keys cannot be restored"),
    (BadRaw, r"BadRaw: field raw: .*RawType.* has no JSON form"),
    (
        Nowhere,
        r"Nowhere: field thing: its annotation in Nowhere names 'Missing', which the module .*test_event ",
    ),
    (InitVars, r"InitVars: field seed: an `InitVar` is not sent, .*: make it a field"),
    (Reserved, r"Reserved: a field cannot be named 'to_dict': rename it"),
    (DeepBox, r"DeepBox: field deep\[\].boxes\[\]: <class '.*Box'> has no JSON form"),
]


@pytest.mark.parametrize(
    ("cls", "text"), UNSUPPORTED, ids=lambda each: getattr(each, "__name__", "")
)
def test_a_field_that_has_no_json_form_is_named(cls: type[Event], text: str) -> None:
    with pytest.raises(EventDefinitionError, match=text):
        codec_of(cls)


def test_a_mixin_cannot_bring_a_field_named_type() -> None:
    @dataclass
    class Typed:
        type: str

    @dataclass
    class Mixed(Event, Typed):
        type = "a"  # type: ignore[misc]
        version = 1

    with pytest.raises(EventDefinitionError, match="a field cannot be named 'type'"):
        codec_of(Mixed)


# --- values -----------------------------------------------------------------------------------


@dataclass
class Thing(Event):
    type = "thing"
    version = 1
    address: Address
    tags: list[str] = field(default_factory=list)
    any: Any = None


@dataclass
class BigAddress(Address):
    country: str = "x"


def registered(cls: type[Event]) -> None:
    Event.registry.add(cls)


def test_to_dict_shares_nothing_with_the_event() -> None:
    event = Thing(Address("x"), ["a"], {"k": [1]})
    payload = event.to_dict()
    payload["tags"].append("b")
    payload["any"]["k"].append(2)
    payload["address"]["city"] = "y"
    assert event == Thing(Address("x"), ["a"], {"k": [1]})


def test_from_dict_shares_nothing_with_the_payload_and_leaves_it_alone() -> None:
    payload = Thing(Address("x"), ["a"], {"k": [1]}).to_dict()
    before = json.dumps(payload)
    event = Thing.from_dict(types.MappingProxyType(payload))
    event.tags.append("b")
    event.any["k"].append(2)
    assert json.dumps(payload) == before


def test_unknown_fields_are_ignored() -> None:
    payload: dict[str, Any] = {**Thing(Address("x")).to_dict(), "new": 1}
    payload["address"]["newer"] = 2
    assert Thing.from_dict(payload) == Thing(Address("x"))


@pytest.mark.parametrize(
    ("change", "path", "reason"),
    [
        ({"tags": ["a", 1]}, "$.tags[1]", "Expected `str`, got `int`"),
        ({"address": {}}, "$.address", "Object missing required field `city`"),
        ({"address": 3}, "$.address", "Expected `object`, got `int`"),
    ],
)
def test_an_error_names_event_path_and_reason(
    change: dict[str, Any], path: str, reason: str
) -> None:
    payload = Thing(Address("x")).to_dict() | change
    with pytest.raises(InvalidEventError) as caught:
        Thing.from_dict(payload)
    assert (caught.value.event_class, caught.value.path) == (Thing, path)
    assert str(caught.value) == f"Thing at {path}: {reason}"
    with pytest.raises(InvalidEventError) as caught:
        codec_of(Thing).decode(json.dumps(payload).encode())
    assert str(caught.value) == f"Thing at {path}: {reason}"


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({}, "its `type` must be a string, not None"),
        ({"type": 1, "version": 1}, "its `type` must be a string, not 1"),
        ({"type": "thing"}, "the `version` of 'thing' must be an integer, not None"),
        ({"type": "thing", "version": "1"}, "the `version` of 'thing' must be an integer, not '1'"),
        (
            {"type": "thing", "version": True},
            "the `version` of 'thing' must be an integer, not True",
        ),
        ([], r"it must be a mapping, not \[\]"),
        (None, "it must be a mapping, not None"),
    ],
)
def test_a_payload_without_type_or_version_is_malformed(payload: Any, text: str) -> None:
    with pytest.raises(MalformedEventError, match=text):
        Thing.from_dict(payload)


def test_a_payload_of_another_type_is_unknown_to_a_concrete_class() -> None:
    with pytest.raises(
        UnknownEventError, match="unknown event 'other' version 1: Thing is 'thing'"
    ):
        Thing.from_dict({"type": "other", "version": 1})


def test_a_payload_of_no_class_is_unknown() -> None:
    with pytest.raises(UnknownEventError, match="no class here has this type: is the module"):
        Event.from_dict({"type": "nobody", "version": 1})


def test_an_abstract_class_finds_its_own_subclasses_only() -> None:
    class Other(Event, abstract=True):
        pass

    registered(Thing)
    payload = Thing(Address("x")).to_dict()
    assert Event.from_dict(payload) == Thing(Address("x"))
    with pytest.raises(UnknownEventError, match="no class here has this type"):
        Other.from_dict(payload)


def test_a_payload_that_contains_itself_is_malformed() -> None:
    payload: dict[str, Any] = Thing(Address("x")).to_dict()
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(MalformedEventError, match="nested too deeply"):
        Thing.from_dict(payload | {"any": deep})
    while deep:  # else the interpreter unwinds it in recursion
        deep = deep.pop()


@pytest.mark.parametrize("error", [KeyError("boo"), ValueError("boo"), RuntimeError("boo")])
def test_what_an_event_raises_itself_is_an_invalid_event(error: Exception) -> None:
    @dataclass
    class Picky(Event):
        type = "picky"
        version = 1
        size: int

        def __post_init__(self) -> None:
            if self.size > 3:
                raise error

    with pytest.raises(InvalidEventError, match="boo") as caught:
        codec_of(Picky).decode(b'{"size":4}')
    assert caught.value.__cause__ is not None
    with pytest.raises(InvalidEventError, match="boo"):
        Picky.from_dict({"type": "picky", "version": 1, "size": 4})


def test_an_event_that_is_unset_in_part_is_refused() -> None:
    @dataclass
    class Unset(Event):
        type = "unset"
        version = 1
        at: Decimal | float = field(init=False)

    with pytest.raises(EventEncodeError, match="missing required field `at`: no consumer could"):
        Unset().to_dict()


def test_an_event_whose_fields_are_all_unset_has_a_body() -> None:
    @dataclass
    class Patch(Event):
        type = "patch"
        version = 1
        name: str | msgspec.UnsetType = msgspec.UNSET

    assert codec_of(Patch).encode(Patch()) == b'{"type":"patch","version":1}'
    assert codec_of(Patch).encode(Patch("x")) == b'{"type":"patch","version":1,"name":"x"}'
    assert Patch.from_dict(Patch().to_dict()) == Patch()


@pytest.mark.skipif(sys.version_info < (3, 14), reason="PEP 649 is of Python 3.14")
def test_annotations_may_name_what_comes_later() -> None:
    module = types.ModuleType("tests_of_later")
    module.__dict__["Event"] = Event
    sys.modules["tests_of_later"] = module
    source = """
from dataclasses import dataclass
@dataclass(slots=True)
class Early(Event):
    type: str = "early"
    version: int = 1
    later: list[Later]
@dataclass
class Later:
    name: str
"""
    try:
        exec(compile(source, "tests_of_later", "exec", dont_inherit=True), module.__dict__)
        early = module.__dict__["Early"]([module.__dict__["Later"]("x")])
        assert type(early).from_dict(early.to_dict()) == early
    finally:
        del sys.modules["tests_of_later"]


def test_errors_survive_pickling() -> None:
    with pytest.raises(InvalidEventError) as caught:
        Thing.from_dict({"type": "thing", "version": 1})
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
