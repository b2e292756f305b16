"""What JSON would change silently, in places where it hides: unions, typed dictionaries, sets."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from math import inf, nan
from typing import Annotated, Any, NamedTuple, TypedDict

import msgspec
import pytest

from events.errors import EventEncodeError
from events.integration import IntegrationEvent


class Reading(TypedDict, total=False):
    value: float
    unit: str


class Point(NamedTuple):
    x: float
    y: float


@dataclass
class Measured(IntegrationEvent):
    type = "fidelity.measured"
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
    "fields",
    [{"reading": 3}, {"points": 3}, {"pair": 3}, {"series": 3}, {"by_name": 3}],
)
def test_a_value_of_another_type_is_not_the_checks_business(fields: dict[str, Any]) -> None:
    measured(**fields).to_dict()  # found by the consumer, which validates


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

    type = "fidelity.weighed"
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
        (
            {"at": None, "by": Employee("Ada", 7)},
            r"\$\.by.*Employee",
        ),  # beside another type's value
    ],
)
def test_one_value_that_json_would_change_is_found_among_usual_ones(
    fields: dict[str, Any], path: str
) -> None:
    with pytest.raises(EventEncodeError, match=path):
        Weighed(**fields).to_dict()
