from __future__ import annotations

from typing import Any

import pytest

from events.domain import DomainEvent, DomainEventHandler, DomainEventHandlerRegistry
from events.errors import (
    HandlerDefinitionError,
    HandlerNotRegisteredError,
    InvalidDomainEventError,
)


class OrderEvent(DomainEvent):
    pass


class Paid(OrderEvent):
    type = "order.paid"


class Cancelled(OrderEvent):
    type = "order.cancelled"


class Ship(DomainEventHandler[Paid]):
    async def handle(self, event: Paid) -> None: ...


class Refund(DomainEventHandler[Cancelled]):
    async def handle(self, event: Cancelled) -> None: ...


class Audit(DomainEventHandler[OrderEvent]):
    async def handle(self, event: OrderEvent) -> None: ...


class Unfinished(DomainEventHandler[Paid]):
    pass


def test_holds_what_the_mapping_says_alone() -> None:
    registry = DomainEventHandlerRegistry({Paid: [Audit, Ship], Cancelled: iter([Audit])})
    assert registry.get(Paid) == [Audit, Ship]
    assert registry.get(Cancelled) == [Audit]
    assert registry.get(OrderEvent) == []
    assert DomainEventHandlerRegistry().get(Paid) == []


def test_order_is_of_first_registration_over_all_bases_and_each_runs_once() -> None:
    registry = DomainEventHandlerRegistry()
    registry.add(Paid, Ship)
    registry.add(OrderEvent, Audit)
    registry.add(Cancelled, Refund)
    registry.add(Paid, Audit)
    registry.add(Paid, Ship)
    assert registry.get(Paid) == [Ship, Audit]
    assert registry.get(Cancelled) == [Audit, Refund]


def test_resolves_once_and_again_after_a_change() -> None:
    registry = DomainEventHandlerRegistry({Paid: [Ship]})
    registry.get(Paid).clear()  # the caller's own
    assert registry.get(Paid) == [Ship]
    registry.add(OrderEvent, Audit)
    assert registry.get(Paid) == [Ship, Audit]
    registry.add(OrderEvent, Audit)
    registry.remove(Paid, Ship)
    assert registry.get(Paid) == [Audit]
    registry.remove(OrderEvent, Audit)
    assert registry.get(Paid) == []
    registry.add(Paid, Ship)
    assert registry.get(Paid) == [Ship]


def test_removes_for_one_event_class_alone() -> None:
    registry = DomainEventHandlerRegistry({Paid: [Audit], Cancelled: [Audit]})
    registry.remove(Paid, Audit)
    assert registry.get(Paid) == []
    assert registry.get(Cancelled) == [Audit]
    with pytest.raises(HandlerNotRegisteredError) as caught:
        registry.remove(Paid, Audit)
    assert str(caught.value) == (
        "Audit is not registered for Paid: remove it for the event class under which you added it"
    )
    with pytest.raises(LookupError):
        DomainEventHandlerRegistry({OrderEvent: [Audit]}).remove(Paid, Audit)


def nothing() -> None: ...


@pytest.mark.parametrize(
    ("event", "handler", "text"),
    [
        (int, Ship, "Ship: is registered for <class 'int'>, which is not a DomainEvent subclass"),
        (Paid(), Ship, "which is not a DomainEvent subclass"),
        (Paid, int, "int: is registered for Paid, but is not a subclass of DomainEventHandler"),
        (Paid, Ship(), "register the class, not an instance or a function"),
        (Paid, nothing, "nothing: is registered for Paid, but is not a subclass"),
        (Paid, Unfinished, "Unfinished: is abstract and cannot be instantiated"),
    ],
)
def test_refuses(event: Any, handler: Any, text: str) -> None:
    with pytest.raises(HandlerDefinitionError) as caught:
        DomainEventHandlerRegistry({event: [handler]})
    assert text in str(caught.value)


@pytest.mark.parametrize("given", [int, type])
def test_get_of_what_is_no_event(given: Any) -> None:
    with pytest.raises(
        InvalidDomainEventError, match=f"^{given.__name__}: is not a DomainEvent, so"
    ):
        DomainEventHandlerRegistry().get(given)


def test_get_of_the_class_of_a_class_says_what_was_stored() -> None:
    with pytest.raises(InvalidDomainEventError, match="store instances .*, not the classes thems"):
        DomainEventHandlerRegistry().get(type)  # type: ignore[type-var]


def test_one_class_where_handlers_are_listed() -> None:
    for make in (DomainEventHandlerRegistry.of, lambda h: DomainEventHandlerRegistry({Paid: h})):
        given: Any = Ship
        with pytest.raises(
            HandlerDefinitionError, match=r"^Ship: is a class, not .*: write \[Ship\]$"
        ):
            make(given)


def test_an_event_without_handlers_is_reported_once_to_those_who_look_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = DomainEventHandlerRegistry({Cancelled: [Refund]})
    with caplog.at_level("DEBUG", "events.domain"):
        registry.get(Cancelled)
        registry.get(Paid)
        registry.get(Paid)
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("DEBUG", "Paid has no handlers; if you wrote some, are their modules imported?")
    ]


def test_handlers_that_an_event_defined_again_has_left_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # As a notebook's cell does, or a reload of the module of the events alone.
    again = type("Paid", (OrderEvent,), {"type": "order.paid", "__module__": __name__})
    registry = DomainEventHandlerRegistry({Paid: [Ship], OrderEvent: [Audit]})
    assert registry.get(again) == [Audit]
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        (
            "WARNING",
            "Paid was defined again after its handlers, which do not receive the new class: "
            "also define these handlers again: Ship",
        )
    ]


@pytest.mark.parametrize(("given", "named"), [([Ship], repr([Ship])), (Ship, "Ship")])
def test_handlers_alone_are_no_mapping(given: Any, named: str) -> None:
    with pytest.raises(HandlerDefinitionError) as caught:
        DomainEventHandlerRegistry(given)
    assert str(caught.value) == (
        f"{named}: is not a mapping of events to handlers: write {{Event: [Handler]}}, or, for a "
        f"list of handlers, DomainEventHandlerRegistry.of([Handler])"
    )


def test_names_of_the_arguments_and_the_handlers_by_event() -> None:
    registry = DomainEventHandlerRegistry(handlers={Paid: [Ship]})
    registry.add(event=OrderEvent, handler=Audit)
    shown = registry.handlers

    assert shown == {Paid: [Ship], OrderEvent: [Audit]}
    assert registry.get(event=Paid) == [Ship, Audit]
    shown.clear()
    registry.remove(event=Paid, handler=Ship)
    assert registry.handlers == {OrderEvent: [Audit]}
