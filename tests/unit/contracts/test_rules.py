"""The rule table: each row is read by `from_dict` both ways, and the verdict says the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, make_dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest

from events.contracts import Service
from events.contracts.check import check
from events.contracts.lock import dumps, loads, lock_of, sent_payloads
from events.contracts.payloads import payloads
from events.contracts.schemas import payload_schema
from events.errors import EventDecodeError
from events.integration import (
    EventHandlerConsumer,
    EventRegistry,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    Topic,
)

ORDERS = Topic("orders")


class Colour(Enum):
    RED = "red"


class MoreColours(Enum):
    RED = "red"
    BLUE = "blue"


def event(*fields: Any) -> type[IntegrationEvent]:
    """Make a release's class of order.placed version 1, in a registry of its own."""

    class Base(IntegrationEvent, abstract=True):
        registry = EventRegistry()

    return make_dataclass(
        "OrderPlacedV1", fields, bases=(Base,), namespace={"type": "order.placed", "version": 1}
    )


def service(event_class: type[IntegrationEvent]) -> Service:
    async def handle(event: Any) -> None: ...

    consumer = EventHandlerConsumer("mails", {event_class: [handle]})
    return Service(
        "shop",
        [IntegrationEventBusRegistration(consumer, ORDERS, [event_class])],
        sends={ORDERS: [event_class]},
    )


NUMBER = ("number", int)
NEW_READS_OLD, OLD_READS_NEW = "new-cannot-read-old", "old-cannot-read-new"
ROWS: dict[str, tuple[list[Any], list[Any], set[str]]] = {
    "nothing": ([NUMBER], [NUMBER], set()),
    "add with default": ([NUMBER], [NUMBER, ("note", str, "")], set()),
    "add without default": ([NUMBER], [NUMBER, ("note", str)], {NEW_READS_OLD}),
    "drop a field": ([NUMBER, ("note", str)], [NUMBER], {OLD_READS_NEW}),
    "drop a field with default": ([NUMBER, ("note", str, "")], [NUMBER], set()),
    "add a default": ([NUMBER, ("note", str)], [NUMBER, ("note", str, "")], set()),
    "take a default away": ([NUMBER, ("note", str, "")], [NUMBER, ("note", str)], {NEW_READS_OLD}),
    "rename": ([("a", str)], [("b", str)], {NEW_READS_OLD, OLD_READS_NEW}),
    "T to T | None": ([("a", str)], [("a", str | None)], {OLD_READS_NEW}),
    "T | None to T": ([("a", str | None)], [("a", str)], {NEW_READS_OLD}),
    "int to float": ([("a", int)], [("a", float)], {OLD_READS_NEW}),
    "float to int": ([("a", float)], [("a", int)], {NEW_READS_OLD}),
    "float to Decimal": ([("a", float)], [("a", Decimal)], {OLD_READS_NEW}),
    "an enum member more": ([("a", Colour)], [("a", MoreColours)], {OLD_READS_NEW}),
    "an enum member less": ([("a", MoreColours)], [("a", Colour)], {NEW_READS_OLD}),
    "str to enum": ([("a", str)], [("a", Colour)], {NEW_READS_OLD}),
    "a literal more": ([("a", Literal["x"])], [("a", Literal["x", "y"])], {OLD_READS_NEW}),
    "UUID to str": ([("a", UUID)], [("a", str)], {OLD_READS_NEW}),
    "str to UUID": ([("a", str)], [("a", UUID)], {NEW_READS_OLD}),
    "date to datetime": ([("a", date)], [("a", datetime)], {NEW_READS_OLD, OLD_READS_NEW}),
    "datetime to date": ([("a", datetime)], [("a", date)], {NEW_READS_OLD, OLD_READS_NEW}),
    "int to str": ([("a", int)], [("a", str)], {NEW_READS_OLD, OLD_READS_NEW}),
    "any datetime to one with a zone": (
        [("a", datetime)],
        [("a", Annotated[datetime, msgspec.Meta(tz=True)])],
        {NEW_READS_OLD},
    ),
    "one to a list": ([("a", int)], [("a", list[int])], {NEW_READS_OLD, OLD_READS_NEW}),
    "items of a list": ([("a", list[int])], [("a", list[float])], {OLD_READS_NEW}),
    "values of a dict": (
        [("a", dict[str, int])],
        [("a", dict[str, str])],
        {NEW_READS_OLD, OLD_READS_NEW},
    ),
    "keys of a dict": ([("a", dict[str, int])], [("a", dict[UUID, int])], {NEW_READS_OLD}),
    "a set to a list": ([("a", set[int])], [("a", list[int])], set()),
    "a tighter limit": (
        [("a", int)],
        [("a", Annotated[int, msgspec.Meta(ge=0)])],
        {NEW_READS_OLD},
    ),
    "a longer text": (
        [("a", Annotated[str, msgspec.Meta(max_length=3)])],
        [("a", str)],
        {OLD_READS_NEW},
    ),
    "bytes to str": ([("a", bytes)], [("a", str)], {OLD_READS_NEW}),
    "nested": (
        [("a", make_dataclass("Inner", [("x", int)]))],
        [("a", make_dataclass("Inner", [("x", int), ("y", int)]))],
        {NEW_READS_OLD},
    ),
    "anything": ([("a", int)], [("a", Any, None)], {OLD_READS_NEW}),
    "default_factory": ([NUMBER], [NUMBER, ("a", list[int], field(default_factory=list))], set()),
}


def breaks(
    given: list[dict[str, Any]], read: Callable[[dict[str, Any]], object]
) -> list[dict[str, Any]]:
    refused: list[dict[str, Any]] = []
    for each in given:
        try:
            read(each)
        except EventDecodeError:
            refused.append(each)
    return refused


@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_the_table(row: str) -> None:
    before, after, expected = ROWS[row]
    old, new = event(*before), event(*after)

    # The truth: the two classes read what the other one's schema allows or its encoder writes.
    really: set[str] = set()
    if breaks(payloads(payload_schema(old)), new.from_dict):
        really.add(NEW_READS_OLD)
    if breaks(sent_payloads(new, service(new)), old.from_dict):
        really.add(OLD_READS_NEW)
    assert really == expected

    # The verdict has no old class, only the lock.
    lock = loads(dumps(lock_of(service(old))), "events.lock.json")
    (verdict,) = check(service(new), lock)
    rules = {each.rule for each in verdict.findings}
    # A change that breaks both is found both ways.
    assert rules == expected
    assert verdict.producers_first is (expected == set()) or NEW_READS_OLD in expected
    for finding in verdict.findings:
        assert finding.level == "error"
        assert finding.example is not None
        reader = new if finding.rule == NEW_READS_OLD else old
        with pytest.raises(EventDecodeError):
            reader.from_dict(finding.example)
