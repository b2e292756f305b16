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
    assert registry.get(Paid) == (Audit, Ship)
    assert registry.get(Cancelled) == (Audit,)
    assert registry.get(OrderEvent) == ()
    assert DomainEventHandlerRegistry().get(Paid) == ()


def test_order_is_of_first_registration_over_all_bases_and_each_runs_once() -> None:
    registry = DomainEventHandlerRegistry()
    registry.add(Paid, Ship)
    registry.add(OrderEvent, Audit)
    registry.add(Cancelled, Refund)
    registry.add(Paid, Audit)
    registry.add(Paid, Ship)
    assert registry.get(Paid) == (Ship, Audit)
    assert registry.get(Cancelled) == (Audit, Refund)


def test_resolves_once_and_again_after_a_change() -> None:
    registry = DomainEventHandlerRegistry({Paid: [Ship]})
    first = registry.get(Paid)
    assert registry.get(Paid) is first
    registry.add(OrderEvent, Audit)
    assert registry.get(Paid) == (Ship, Audit)
    registry.add(OrderEvent, Audit)
    registry.remove(Paid, Ship)
    assert registry.get(Paid) == (Audit,)
    registry.remove(OrderEvent, Audit)
    assert registry.get(Paid) == ()
    registry.add(Paid, Ship)
    assert registry.get(Paid) == (Ship,)


def test_removes_for_one_event_class_alone() -> None:
    registry = DomainEventHandlerRegistry({Paid: [Audit], Cancelled: [Audit]})
    registry.remove(Paid, Audit)
    assert registry.get(Paid) == ()
    assert registry.get(Cancelled) == (Audit,)
    with pytest.raises(HandlerNotRegisteredError) as caught:
        registry.remove(Paid, Audit)
    assert str(caught.value) == (
        "Audit is not registered for Paid: remove it for the event class that it was added for"
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
        (Paid, Unfinished, "Unfinished: is abstract, so it could never be built"),
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
