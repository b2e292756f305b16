"""A consumer made of functions: lists of handlers, live, of real types."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import Any, get_type_hints

import pytest
from dishka import Provider, Scope, make_container

from events.errors import InvalidTopologyError
from events.integration import (
    Consumer,
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
        InvalidTopologyError, match=r"on_refunded.* cannot handle Paid: its annotation is Refun"
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


# --- the short form


async def test_the_decorator_adds_a_handler_and_leaves_the_function_as_it_is(
    journal: Journal,
) -> None:
    consumer = EventHandlerConsumer("books")
    f = journal.handler("f")

    @consumer.on(Paid)
    async def book(event: Paid) -> None:
        await f(event)

    assert consumer.handlers == {Paid: [book]}
    await book(Paid(1))
    await consumer.on_event(Paid(2))
    assert journal.calls == [("f", Paid(1)), ("f", Paid(2))]


@pytest.mark.parametrize("wrong", [on_refunded, "Paid", int, Paid(1)])
def test_the_decorator_needs_the_class_of_an_event(wrong: Any) -> None:
    consumer = EventHandlerConsumer("books")
    with pytest.raises(InvalidTopologyError, match=r"write @consumer.on\(UserRegisteredV1\)"):
        consumer.on(wrong)
    with pytest.raises(InvalidTopologyError, match="not an IntegrationEvent class: write add_han"):
        consumer.add_handler(wrong, on_refunded)
    assert consumer.handlers == {}


async def test_a_consumer_subscribes_to_what_it_has_handlers_of(journal: Journal) -> None:
    consumer = EventHandlerConsumer("books")
    policy = RetryPolicy(attempts=2)
    registration = consumer.subscribe(TOPIC, concurrency=3, order_by=id, retry=policy)
    consumer.on(Paid)(journal.handler("f"))  # later, and it counts
    assert (registration.consumer, registration.topic) == (consumer, TOPIC)
    assert (registration.concurrency, registration.order_by, registration.retry) == (3, id, policy)
    async with InMemoryIntegrationEventBus([registration]) as bus:
        await bus.send(TOPIC, Paid(1))
        await until_quiet(bus)
    assert journal.calls == [("f", Paid(1))]


@pytest.mark.parametrize("leave_out", [{}, {"events": None}])
def test_a_registration_without_events_means_the_handlers(
    leave_out: dict[str, Any], journal: Journal
) -> None:
    consumer = EventHandlerConsumer("books")
    registration = IntegrationEventBusRegistration(consumer, TOPIC, **leave_out)
    with pytest.raises(InvalidTopologyError, match="it names no events; list the classes, or add"):
        registration.check()
    consumer.add_handler(Paid, journal.handler("f"))
    registration.check()
    assert list(registration.events) == [Paid]


def test_a_consumer_of_another_kind_has_to_name_its_events() -> None:
    class Collector(Consumer):
        async def on_event(self, event: IntegrationEvent) -> None: ...

    with pytest.raises(
        InvalidTopologyError, match="a Collector does not list the events that it handles"
    ):
        IntegrationEventBusRegistration(Collector("c"), TOPIC)

    class Knows(Collector):
        def handled_events(self) -> list[type[IntegrationEvent]]:
            return [Paid]

    assert list(IntegrationEventBusRegistration(Knows("k"), TOPIC).events) == [Paid]
    with pytest.raises(InvalidTopologyError, match="the consumer must be a Consumer, not str"):
        IntegrationEventBusRegistration("books", TOPIC).check()  # type: ignore[arg-type]


def test_the_package_completes_to_what_users_need() -> None:
    import events.integration

    assert dir(events.integration) == sorted(events.integration.__all__)
    assert "EventHandlerConsumer" in dir(events.integration)
    assert "codec" not in dir(events.integration)


# --- the doors

DOORS = {
    "events.memory": {
        "MemoryBus": "InMemoryIntegrationEventBus",
        "MemoryBroadcastBus": "InMemoryBroadcastIntegrationEventBus",
    },
    "events.rabbitmq": {"RabbitMQBus": "RabbitMQIntegrationEventBus"},
    "events.redis": {
        "RedisStreamsBus": "RedisStreamsIntegrationEventBus",
        "RedisPubSubBus": "RedisPubSubIntegrationEventBus",
    },
    "events.nats": {"NATSBus": "NatsIntegrationEventBus"},
    "events.sqlalchemy": {"SQLAlchemyOutbox": "SQLAlchemyOutbox"},
    "events.dishka": {"IntegrationEventsProvider": "IntegrationEventImplementationProvider"},
}


@pytest.mark.parametrize("door", DOORS)
def test_a_door_gives_short_names_to_what_has_long_ones(door: str) -> None:
    implementation = import_module(door.replace("events.", "events.integration.implementation."))
    for short, long in DOORS[door].items():
        assert getattr(import_module(door), short) is getattr(implementation, long)
