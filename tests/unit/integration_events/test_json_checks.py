"""What JSON would change silently, in places where it hides: unions, typed dictionaries, sets."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from math import inf, nan
from typing import Annotated, Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pytest

from events.errors import EventEncodeError
from events.integration import IntegrationEvent, Topic
from events.integration.codec import codec_of
from events.integration.implementation.memory import InMemoryIntegrationEventBus


class Reading(TypedDict, total=False):
    value: float
    unit: str


class Point(NamedTuple):
    x: float
    y: float


@dataclass
class Measured(IntegrationEvent):
    type = "json_checks.measured"
    version = 1
    reading: Reading
    points: list[Point]
    either: float | str | None = None
    pair: tuple[float, str] = (0.0, "")
    bounded: Annotated[float, msgspec.Meta(ge=-1e300)] = 0.0
    series: list[float] | None = None
    by_name: dict[str, float] | None = None
    anything: Any = None


def measured(**fields: Any) -> Measured:
    given: dict[str, Any] = {"reading": {"value": 1.0}, "points": []}
    return Measured(**given | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"reading": {"unit": "m"}},
        {"points": [Point(1.0, 2.0)], "either": "text"},
        {"either": 2.5, "series": [1.0, 2.0], "by_name": {"a": 1.5}},
        {"series": [1e308, 1e308]},  # whose sum is infinite, though none of them is
        {"anything": {"deep": [1, "two", None, 3.5]}},
    ],
)
def test_what_json_keeps_comes_back(fields: dict[str, Any]) -> None:
    event = measured(**fields)
    assert Measured.from_dict(event.to_dict()) == event


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"reading": {"value": nan}}, r"\$\.reading\.value"),
        ({"points": [Point(0.0, 0.0), Point(0.0, inf)]}, r"\$\.points\[1\]\.y"),
        ({"either": -inf}, r"\$\.either"),
        ({"pair": (nan, "x")}, r"\$\.pair\[0\]"),
        ({"bounded": inf}, r"\$\.bounded"),
        ({"series": [1.0, nan]}, r"\$\.series\[1\]"),
        ({"by_name": {"a": nan}}, r"\$\.by_name\['a'\]"),
        ({"anything": {"deep": [nan]}}, r"\$\.anything"),
    ],
)
def test_what_json_would_change_is_refused_with_its_place(
    fields: dict[str, Any], path: str
) -> None:
    with pytest.raises(EventEncodeError, match=path):
        measured(**fields).to_dict()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"reading": 3}, r"\$\.reading: Expected `object`, got `int`: no consumer could decode it"),
        ({"reading": {"valeu": 1.0}}, r"\$\.reading: it would be decoded as {}"),
        ({"points": 3}, r"\$\.points: Expected `array`, got `int`"),
        ({"points": [Point("a", 1.0)]}, r"\$\.points\[0\]\.x: Expected `float`, got `str`"),  # type: ignore[arg-type]
        ({"pair": (0.0, 1)}, r"\$\.pair\[1\]: Expected `str`, got `int`"),
        ({"pair": (0.0,)}, r"\$\.pair: Expected `array` of length 2: no consumer"),
        ({"series": "text"}, r"\$\.series: Expected `array \| null`, got `str`"),
        ({"series": [1.0, None]}, r"\$\.series\[1\]: Expected `float`, got `null`"),
        ({"by_name": {"a": 1.0, "b": "x"}}, r"\$\.by_name\['b'\]: Expected `float`, got `str`"),
        ({"bounded": -2e300}, r"\$\.bounded: Expected `float` >= -1e\+300"),
        ({"bounded": 2**53 + 1}, r"\$\.bounded: a int would be decoded as a float"),
    ],
)
def test_what_no_consumer_could_read_is_refused_with_its_place(
    fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(EventEncodeError, match=f"^cannot encode Measured: {said}"):
        measured(**fields).to_dict()


@dataclass
class Person:
    name: str


@dataclass
class Employee(Person):
    number: int = 0


ODD = timezone(timedelta(hours=1, seconds=30))
NOW = datetime(2026, 11, 26, tzinfo=UTC)


@dataclass
class Weighed(IntegrationEvent):
    """Two fields that are nearly always well, which is seen in one look, and one that is not."""

    type = "json_checks.weighed"
    version = 1
    at: datetime = NOW
    by: Person = field(default_factory=lambda: Person("Ada"))
    grams: float = 1.0


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"at": datetime(2026, 11, 26)},  # noqa: DTZ001 - as somebody may
        {"at": datetime(2026, 11, 26, tzinfo=timezone(timedelta(hours=-5)))},
    ],
)
def test_usual_and_unusual_values_that_json_keeps_come_back(fields: dict[str, Any]) -> None:
    event = Weighed(**fields)
    assert Weighed.from_dict(event.to_dict()) == event


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"at": NOW.replace(tzinfo=ODD)}, r"\$\.at"),
        ({"by": Employee("Ada", 7)}, r"\$\.by.*Employee"),
        ({"grams": nan}, r"\$\.grams"),  # beside what is well
        ({"grams": nan, "at": NOW.replace(tzinfo=None)}, r"\$\.grams"),  # beside what is not usual
        ({"at": None, "by": Employee("Ada", 7)}, r"\$\.at: Expected"),  # both: the decoder's first
    ],
)
def test_one_value_that_json_would_change_is_found_among_usual_ones(
    fields: dict[str, Any], path: str
) -> None:
    with pytest.raises(EventEncodeError, match=path):
        Weighed(**fields).to_dict()


# --- values of another type -------------------------------------------------------------------


class Color(Enum):
    RED = "red"


@dataclass
class Even:
    """May be changed after its own check."""

    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError(f"{self.number} is odd")


ID = UUID(int=1)


@dataclass
class Typed(IntegrationEvent):
    """A field for each kind, and one for what is inside others."""

    type = "json_checks.typed"
    version = 1
    name: str = ""
    count: int = 0
    sure: bool = True
    day: date = date(2026, 11, 26)
    at: datetime = NOW
    price: Decimal = Decimal(1)
    id: UUID = ID
    color: Color = Color.RED
    one: Literal["a", 1] = "a"
    short: Annotated[str, msgspec.Meta(max_length=2)] = ""
    utc: Annotated[datetime, msgspec.Meta(tz=True)] = NOW
    few: Annotated[list[int], msgspec.Meta(max_length=2)] = field(default_factory=list)
    anything: Any = None
    names: Sequence[str] = ()
    persons: dict[int, list[Person]] = field(default_factory=dict)
    days: set[date] = field(default_factory=set)
    even: Even | None = None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": 5}, r"\$\.name: Expected `str`, got `int`"),
        ({"name": None}, r"\$\.name: Expected `str`, got `null`"),
        ({"name": UUID(int=1)}, r"\$\.name: a UUID would be decoded as a str"),
        ({"count": True}, r"\$\.count: Expected `int`, got `bool`"),
        ({"count": "5"}, r"\$\.count: Expected `int`, got `str`"),
        ({"sure": 1}, r"\$\.sure: Expected `bool`, got `int`"),
        ({"day": NOW}, r"\$\.day: Invalid RFC3339|\$\.day: Invalid ISO8601"),
        ({"at": date(2026, 11, 26)}, r"\$\.at: Invalid RFC3339"),
        ({"price": "much"}, r"\$\.price: Invalid decimal string"),
        ({"price": "1.5"}, r"\$\.price: a str would be decoded as a Decimal"),
        ({"id": "1"}, r"\$\.id: Invalid UUID"),
        ({"color": "blue"}, r"\$\.color: Invalid enum value 'blue'"),
        ({"one": "b"}, r"\$\.one: Invalid enum value 'b'"),
        ({"short": "abc"}, r"\$\.short: Expected `str` of length <= 2"),
        ({"utc": datetime(2026, 11, 26)}, r"\$\.utc: Expected `datetime` with a timezone"),  # noqa: DTZ001
        ({"few": [1, 2, 3]}, r"\$\.few: Expected `array` of length <= 2"),
        ({"anything": {"a": [{1}]}}, r"\$\.anything\['a'\]\[0\]: a set would be decoded as a list"),
        ({"anything": {1: 2}}, r"\$\.anything\[1\]: 1, a int, would be decoded as another type"),
        ({"names": ["a", 2]}, r"\$\.names\[1\]: Expected `str`, got `int`"),
        ({"names": {"a"}}, r"\$\.names: a set would be decoded as a list"),
        ({"persons": {1: [Person("a"), Person(None)]}}, r"\$\.persons\[1\]\[1\]\.name: Expected `str`"),  # type: ignore[arg-type]
        ({"persons": {"x": []}}, r"\$\.persons\['x'\]: Expected `int`, got `str`"),
        ({"persons": {1: [Employee("a", 7)]}}, r"\$\.persons\[1\]\[0\]: it is a Employee, of which"),
        ({"days": {NOW}}, r"\$\.days\[datetime.*\]: Invalid"),
        ({"name": 5, "count": "x"}, r"\$\.name: Expected `str`, got `int`"),
    ],
)  # fmt: skip
def test_a_field_that_holds_another_type_is_refused_at_the_sender(
    fields: dict[str, Any], said: str
) -> None:
    event = Typed(**fields)
    for encode in (codec_of(Typed).encode, Typed.to_dict):
        with pytest.raises(EventEncodeError, match=f"^cannot encode Typed: ({said})"):
            encode(event)


@pytest.mark.parametrize(
    "fields",
    [
        {"names": ("a", "b")},  # a Sequence may be a tuple, which arrives as a list
        {"one": 1},
        {"few": [1, 2]},
        {"at": datetime(2026, 11, 26)},  # noqa: DTZ001 - as somebody may
        {"anything": {"a": [1, None, {"b": True}]}},
        {"persons": {1: [Person("a")], 2: []}},
        {"even": Even(2)},
    ],
)
def test_what_a_consumer_can_read_is_accepted(fields: dict[str, Any]) -> None:
    received = Typed.from_dict(Typed(**fields).to_dict())
    for name, value in fields.items():
        found = getattr(received, name)
        assert (tuple(found) if isinstance(value, tuple) else found) == value


def test_a_value_that_was_changed_after_its_own_check_is_refused() -> None:
    event = Typed(even=Even(2))
    assert event.even is not None
    event.even.number = 3
    with pytest.raises(EventEncodeError, match=r"\$\.even: 3 is odd: no consumer could decode it"):
        event.to_dict()


def test_a_missing_attribute_is_refused() -> None:
    event = Typed(even=Even(2))
    del event.name
    event.__dict__.pop("name", None)
    assert Typed.from_dict(event.to_dict()).name == ""  # the class's default
    person = Person("Ada")
    del person.name
    with pytest.raises(EventEncodeError, match=r"Object missing required field `name`"):
        Typed(persons={1: [person]}).to_dict()


async def test_send_refuses_it_and_sends_nothing() -> None:
    async with InMemoryIntegrationEventBus(source="/test") as bus:
        with pytest.raises(EventEncodeError, match=r"\$\.name: Expected `str`, got `int`"):
            await bus.send(Topic("typed"), Typed(name=5))  # type: ignore[arg-type]
