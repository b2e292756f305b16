"""`AggregateRootMixin`: an aggregate whose base has a layout of its own, as pydantic's models have."""

from __future__ import annotations

import copy
import gc
import pickle

import pytest
from pydantic import BaseModel, TypeAdapter

from events.domain import (
    AggregateRoot,
    AggregateRootMixin,
    DomainEvent,
    DomainEventDispatcher,
    DomainEventHandler,
    SimpleDomainEventHandlerFactory,
)
from events.errors import InvalidDomainEventError


class Cancelled(DomainEvent):
    type = "mixin.cancelled"


class Aggregate(AggregateRootMixin, BaseModel):
    __slots__ = ("_unpopped_events",)


class Booking(Aggregate):
    number: int


class Calendar(AggregateRootMixin, BaseModel, frozen=True):
    __slots__ = ("_unpopped_events",)

    events: list[str]


class Plain(BaseModel):
    number: int


def published() -> Booking:
    booking = Booking(number=1)
    booking.publish_event(Cancelled())
    return booking


def test_a_model_publishes_and_its_events_are_no_part_of_it() -> None:
    booking = published()
    assert [event.type for event in booking.events] == ["mixin.cancelled"]
    assert booking == Booking(number=1)
    assert repr(booking) == "Booking(number=1)"
    assert booking.model_dump() == {"number": 1}
    assert TypeAdapter(Booking | Plain).dump_json(booking) == b'{"number":1}'
    assert vars(booking) == {"number": 1}
    assert len(booking.pop_events()) == 1
    assert booking.pop_events() == []


def test_copies_leave_the_events_behind() -> None:
    booking = published()
    for copied in (
        booking.model_copy(),
        booking.model_copy(deep=True),
        copy.copy(booking),
        copy.deepcopy(booking),
        pickle.loads(pickle.dumps(booking)),
    ):
        assert copied == booking
        assert copied.events == []
        copied.publish_event(Cancelled())
        assert len(copied.pop_events()) == 1
    assert len(booking.pop_events()) == 1


def test_a_frozen_model_with_a_field_events() -> None:
    calendar = Calendar(events=["meeting"])
    calendar.publish_event(Cancelled())
    assert calendar.events == ["meeting"]
    assert len(calendar.pop_events()) == 1


async def test_a_dispatcher_takes_its_events_and_what_comes_later() -> None:
    booking = published()
    handled: list[DomainEvent] = []

    class Again(DomainEventHandler[Cancelled]):
        async def handle(self, event: Cancelled) -> None:
            handled.append(event)
            if len(handled) < 3:
                booking.publish_event(Cancelled())

    factory = SimpleDomainEventHandlerFactory({Again: Again})
    async with DomainEventDispatcher(factory) as dispatcher:
        dispatcher.from_entity(booking)
    assert len(handled) == 3


def test_events_that_die_with_a_model_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    published()
    gc.collect()
    assert [
        m for m in caplog.messages if m.startswith("Booking was collected with 1 domain events")
    ]


def test_a_class_without_the_slot_is_refused_and_one_with_it_is_no_aggregate_root() -> None:
    with pytest.raises(InvalidDomainEventError) as caught:
        type("Slotless", (AggregateRootMixin, BaseModel), {})
    assert str(caught.value) == (
        "Slotless: has no slot for its events: derive it from AggregateRoot; if another base has "
        'slots, write `__slots__ = ("_unpopped_events",)` in the class body'
    )
    assert not isinstance(published(), AggregateRoot)
    assert issubclass(AggregateRoot, AggregateRootMixin)
