"""A consumer made of functions: lists of handlers, live, of real types."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, get_type_hints

import pytest
from dishka import Provider, Scope, make_container

from events.errors import InvalidTopologyError
from events.integration import (
    EventHandlerConsumer,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    RetryPolicy,
    Topic,
)
from events.integration.implementation.memory import InMemoryIntegrationEventBus
from events.integration.pipeline.middleware import CheckedHandler, Serving
from events.integration.topology.consumer.handler import EventHandler, EventHandlerRegistry
from events.testing import until_quiet

TOPIC = Topic("consumer")


@dataclass
class Paid(IntegrationEvent):
    type = "consumer.paid"
    version = 1
    amount: int = 0


@dataclass
class Refunded(IntegrationEvent):
    type = "consumer.refunded"
    version = 1


class Journal:
    """Handlers that write down what they were called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, IntegrationEvent]] = []
        self.failing: set[str] = set()

    def handler(self, name: str) -> EventHandler:
        async def handle(event: IntegrationEvent) -> None:
            self.calls.append((name, event))
            if name in self.failing:
                self.failing.remove(name)
                raise ConnectionError(name)

        return handle


@pytest.fixture
def journal() -> Journal:
    return Journal()


async def test_all_handlers_of_an_event_are_awaited_in_their_order(journal: Journal) -> None:
    f, g, h = map(journal.handler, "fgh")
    consumer = EventHandlerConsumer("books", handlers={Paid: [f, g], Refunded: h})
    await consumer.on_event(Paid(1))
    await consumer.on_event(Refunded())
    assert journal.calls == [("f", Paid(1)), ("g", Paid(1)), ("h", Refunded())]


async def test_a_handler_that_fails_keeps_the_later_ones_from_the_event(journal: Journal) -> None:
    journal.failing.add("f")
    consumer = EventHandlerConsumer("books", {Paid: [*map(journal.handler, "fg")]})
    with pytest.raises(ConnectionError):
        await consumer.on_event(Paid(1))
    assert journal.calls == [("f", Paid(1))]


async def test_a_retry_calls_all_of_them_again(journal: Journal) -> None:
    journal.failing.add("g")
    consumer = EventHandlerConsumer("books", {Paid: [*map(journal.handler, "fg")]})
    registration = IntegrationEventBusRegistration(
        consumer, TOPIC, [Paid], retry=RetryPolicy(delay=0)
    )
    async with InMemoryIntegrationEventBus([registration]) as bus:
        await bus.send(TOPIC, Paid(1))
        await until_quiet(bus)
    assert [name for name, _ in journal.calls] == ["f", "g", "f", "g"]


async def test_a_second_handler_of_an_event_is_added(journal: Journal) -> None:
    f, g = map(journal.handler, "fg")
    consumer = EventHandlerConsumer("books", {Paid: f})
    consumer.add_handler(event_type=Paid, handler=g)
    consumer.handlers[Paid].append(f)
    assert consumer.handlers == {Paid: [f, g, f]}
    await consumer.on_event(Paid(1))
    assert [name for name, _ in journal.calls] == ["f", "g", "f"]


@pytest.mark.parametrize("many", [list, tuple, iter])
def test_what_is_given_in_another_form_is_a_list(
    many: Callable[[Any], Any], journal: Journal
) -> None:
    f, g = map(journal.handler, "fg")
    consumer = EventHandlerConsumer("books", {Paid: many([f, g]), Refunded: f})
    assert consumer.handlers == {Paid: [f, g], Refunded: [f]}


async def test_a_dict_that_is_given_stays_live(journal: Journal) -> None:
    f, g = map(journal.handler, "fg")
    given: dict[type[IntegrationEvent], Any] = {}
    consumer = EventHandlerConsumer("books", given)
    registration = IntegrationEventBusRegistration(consumer, TOPIC, consumer.handlers.keys())
    given[Paid] = [f]
    given[Paid].append(g)
    given[Refunded] = g  # one alone, late
    await consumer.on_event(Refunded())
    registration.check()
    assert set(registration.events) == {Paid, Refunded}
    assert consumer.handlers == {Paid: [f, g], Refunded: [g]}
    async with InMemoryIntegrationEventBus([registration]) as bus:
        await bus.send(TOPIC, Paid(1))
        await until_quiet(bus)
    assert journal.calls == [("g", Refunded()), ("f", Paid(1)), ("g", Paid(1))]


def test_a_mapping_that_cannot_be_written_is_copied(journal: Journal) -> None:
    f, g = map(journal.handler, "fg")
    consumer = EventHandlerConsumer("books", MappingProxyType({Paid: f}))
    consumer.add_handler(Paid, g)
    assert consumer.handlers == {Paid: [f, g]}
    grouped: defaultdict[type[IntegrationEvent], list[EventHandler]] = defaultdict(list)
    consumer = EventHandlerConsumer("books", grouped)
    grouped[Paid].append(f)
    assert consumer.handlers == {Paid: [f]}


async def test_an_event_whose_list_is_empty_has_no_handler() -> None:
    consumer = EventHandlerConsumer("books", {Paid: []})
    with pytest.raises(InvalidTopologyError, match="it has no handler for Paid"):
        await consumer.on_event(Paid())
    with pytest.raises(InvalidTopologyError, match="no handler for Paid; add one with add_handler"):
        IntegrationEventBusRegistration(consumer, TOPIC, [Paid]).check()


async def on_refunded(event: Refunded) -> None: ...


async def on_refunded_with(session: object, event: Refunded) -> None: ...


@pytest.mark.parametrize("wrong", [on_refunded, partial(on_refunded_with, object())])
def test_each_handler_in_a_list_is_checked(wrong: EventHandler, journal: Journal) -> None:
    consumer = EventHandlerConsumer("books", {Paid: [journal.handler("f"), wrong]})
    with pytest.raises(
        InvalidTopologyError, match=r"on_refunded.* cannot handle Paid: it says that it takes Refun"
    ):
        IntegrationEventBusRegistration(consumer, TOPIC, [Paid]).check()


async def test_a_handler_in_a_list_that_needs_something_of_its_bus_says_so(
    journal: Journal,
) -> None:
    class Demanding(CheckedHandler):
        def check(self, serving: Serving) -> None:
            raise InvalidTopologyError(str(serving.registration), "it needs more")

        async def __call__(self, event: Paid) -> None: ...

    consumer = EventHandlerConsumer("books", {Paid: [journal.handler("f"), Demanding()]})
    registration = IntegrationEventBusRegistration(consumer, TOPIC, [Paid])
    with pytest.raises(InvalidTopologyError, match="it needs more"):
        await InMemoryIntegrationEventBus([registration]).startup()


# --- the types, as a program that runs meets them


class Holder:
    def __init__(
        self,
        handlers: EventHandlerRegistry | None = None,
        handler: EventHandler | None = None,
        others: Sequence[EventHandler] = (),
    ) -> None:
        self.handlers = handlers


def test_the_types_can_be_resolved() -> None:
    assert get_type_hints(Holder.__init__)["handlers"] == EventHandlerRegistry | None
    assert get_type_hints(Holder.__init__)["handler"] == EventHandler | None  # pyright: ignore[reportOperatorIssue] - it has one at run time
    assert get_type_hints(EventHandlerConsumer.__init__)
    assert get_type_hints(EventHandlerConsumer.add_handler)


def test_the_types_are_dependencies_of_a_container(journal: Journal) -> None:
    f = journal.handler("f")
    provider = Provider(scope=Scope.APP)
    provider.provide(lambda: {Paid: [f]}, provides=EventHandlerRegistry)
    provider.provide(lambda: f, provides=EventHandler)

    def consumer(handlers: EventHandlerRegistry, more: EventHandler) -> EventHandlerConsumer:
        made = EventHandlerConsumer("books", handlers)
        made.add_handler(Paid, more)
        return made

    provider.provide(consumer)
    container = make_container(provider)
    assert container.get(EventHandlerConsumer).handlers == {Paid: [f, f]}
