import functools
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import AsyncMock

import pytest

from events.errors import InvalidTopologyError
from events.integration import (
    Consumer,
    EventHandlerConsumer,
    IntegrationEvent,
    IntegrationEventBus,
    IntegrationEventBusRegistration,
    RetryPolicy,
    Topic,
)
from events.integration.implementation.memory import (
    InMemoryBroadcastIntegrationEventBus,
    InMemoryIntegrationEventBus,
)
from events.integration.implementation.nats import NatsIntegrationEventBus
from events.integration.implementation.rabbitmq import RabbitMQIntegrationEventBus
from events.integration.implementation.redis import (
    RedisPubSubIntegrationEventBus,
    RedisStreamsIntegrationEventBus,
)
from events.testing import RecordingIntegrationEventBus


@dataclass
class Paid(IntegrationEvent):
    type = "topology.paid"
    version = 1
    amount: int = 0


@dataclass
class Refunded(IntegrationEvent):
    type = "topology.refunded"
    version = 1


class Collector(Consumer):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.seen: list[IntegrationEvent] = []

    async def on_event(self, event: IntegrationEvent) -> None:
        self.seen.append(event)


class Unnamed(Consumer):
    def __init__(self) -> None:
        pass

    async def on_event(self, event: IntegrationEvent) -> None: ...


class NotAsync(Consumer):
    def on_event(self, event: IntegrationEvent) -> None:  # type: ignore[override]
        pass


async def ignore(event: IntegrationEvent) -> None:
    pass


def test_topics_of_one_name_are_one_topic() -> None:
    assert Topic("users") == Topic("users")
    assert {Topic("users"), Topic("users")} == {Topic("users")}
    with pytest.raises(AttributeError):
        Topic("users").name = "others"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", r"Topic\(''\): its name is empty"),
        (None, r"Topic\(None\): its name must be a string, not NoneType"),
        (3, r"its name must be a string, not int"),
        (" users", "white space around it"),
        ("us\ners", "characters that cannot be printed"),
        ("é" * 101, "longer than 200 bytes"),
    ],
)
def test_a_name_that_no_broker_takes_is_refused(name: Any, reason: str) -> None:
    with pytest.raises(InvalidTopologyError, match=reason):
        Topic(name)
    with pytest.raises(InvalidTopologyError, match=reason.replace("Topic", "Collector")):
        Collector(name)


async def test_a_consumer_of_functions_awaits_the_one_for_the_class() -> None:
    seen: list[tuple[str, IntegrationEvent]] = []

    async def on_paid(event: Paid) -> None:
        seen.append(("paid", event))

    async def on_refunded(event: Refunded) -> None:
        seen.append(("refunded", event))

    consumer = EventHandlerConsumer("accounts", {Paid: on_paid})
    consumer.add_handler(Refunded, on_refunded)
    await consumer.on_event(Paid(3))
    await consumer.on_event(Refunded())
    assert seen == [("paid", Paid(3)), ("refunded", Refunded())]


async def test_an_event_without_handler_is_an_error_that_names_both() -> None:
    with pytest.raises(
        InvalidTopologyError,
        match=r"EventHandlerConsumer\('accounts'\): it has no handler for Paid",
    ):
        await EventHandlerConsumer("accounts").on_event(Paid())


def test_events_may_be_any_iterable_and_a_view_stays_live() -> None:
    topic = Topic("t")
    IntegrationEventBusRegistration(Collector("c"), topic, iter([Paid])).check()
    IntegrationEventBusRegistration(Collector("c"), topic, {Paid, Refunded}).check()
    consumer = EventHandlerConsumer("late")
    registration = IntegrationEventBusRegistration(consumer, topic, consumer.handlers.keys())
    consumer.add_handler(Paid, ignore)
    registration.check()
    assert list(registration.events) == [Paid]


WRONG_REGISTRATIONS: list[tuple[dict[str, Any], str]] = [
    ({"events": []}, "it names no events; list the classes"),
    ({"events": [int]}, "<class 'int'> is not an IntegrationEvent class"),
    (
        {"events": [Paid()]},
        r"Paid\(type='topology.paid', version=1, amount=0\) is not an IntegrationEvent class",
    ),
    ({"events": [Refunded]}, "no handler for Refunded; add one with add_handler"),
    ({"topic": "users"}, r"must be a Topic, as in Topic\('users'\), not str"),
    ({"consumer": "accounts"}, "must be a Consumer, not str"),
    ({"consumer": Collector}, "must be a Consumer, not the class Collector"),
    ({"consumer": Unnamed()}, r"has no name: call `super\(\).__init__\(name\)`"),
    ({"consumer": NotAsync("c")}, "`on_event` cannot work: it is not async"),
    ({"concurrency": 0}, "concurrency must be at least 1, not 0"),
    ({"concurrency": "3"}, "concurrency must be an int, not '3'"),
    ({"order_by": id}, "order_by needs a concurrency of 2 or more"),
    ({"order_by": "amount", "concurrency": 2}, "a function of the event, not 'amount'"),
    (
        {"order_by": ignore, "concurrency": 2},
        "order_by must return the key, not a coroutine: write <func",
    ),
    ({"retry": 3}, r"a RetryPolicy, as in RetryPolicy\(attempts=3\), not 3"),
]


@pytest.mark.parametrize(("wrong", "reason"), WRONG_REGISTRATIONS)
def test_a_registration_that_cannot_work_says_why(wrong: dict[str, Any], reason: str) -> None:
    right: dict[str, Any] = {
        "consumer": EventHandlerConsumer("accounts", {Paid: ignore}),
        "topic": Topic("payments"),
        "events": [Paid],
    }
    IntegrationEventBusRegistration(**right).check()
    with pytest.raises(InvalidTopologyError, match=reason):
        IntegrationEventBusRegistration(**(right | wrong)).check()


class Welcome:
    async def handle(self, event: Paid) -> None: ...

    def not_async(self, event: Paid) -> None: ...


async def takes_more(event: Paid, session: object) -> None: ...


def not_async(event: Any) -> None: ...


async def on_refunded(event: Refunded) -> None: ...


class OnRefunded:
    event: "Paid"

    async def __call__(self, event: Refunded) -> None: ...


async def on_shipped_or_refunded(event: "Shipped | Refunded") -> None: ...


class Shipped(IntegrationEvent):
    type = "topology.shipped"
    version = 1


WRONG_HANDLERS: list[tuple[Any, str]] = [
    (Welcome, r"it is a class: .*`DishkaHandler\(Welcome\)`"),
    (Welcome(), "it cannot be called: pass a function, or a method"),
    (takes_more, "no other argument: missing a required argument: 'session'"),
    (Welcome().not_async, "it is not async: write it as `async def`"),
    (on_refunded, "on_refunded at .*> cannot handle Paid: its annotation is Refunded"),
    (OnRefunded(), "cannot handle Paid: its annotation is Refunded"),
    (on_shipped_or_refunded, "its annotation is Shipped or Refunded"),
    (not_async, "<function not_async at .*> cannot handle Paid: it is not async"),
]


@pytest.mark.parametrize(("handler", "reason"), WRONG_HANDLERS)
def test_a_handler_that_could_never_work_is_found_before_any_event_comes(
    handler: Any, reason: str
) -> None:
    consumer = EventHandlerConsumer("accounts", {Paid: handler})
    with pytest.raises(InvalidTopologyError, match=reason):
        IntegrationEventBusRegistration(consumer, Topic("t"), [Paid]).check()


class OfRefunds(Consumer):
    async def on_event(self, event: Refunded) -> None: ...  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride]


def test_a_consumer_of_ones_own_is_held_to_its_annotation_as_well() -> None:
    IntegrationEventBusRegistration(OfRefunds("c"), Topic("t"), [Refunded]).check()
    reason = "its `on_event` cannot handle Paid: its annotation is Refunded"
    with pytest.raises(InvalidTopologyError, match=reason):
        IntegrationEventBusRegistration(OfRefunds("c"), Topic("t"), [Refunded, Paid]).check()


def test_a_handler_that_may_work_is_not_refused_for_its_looks() -> None:
    async def with_default(event: Paid, retries: int = 3) -> None: ...

    def delegates(event: Paid) -> Awaitable[None]:
        return ignore(event)

    @functools.wraps(takes_more)
    def decorated(event: Paid) -> Any:
        return takes_more(event, None)

    def decorated_without_a_word(*args: Any, **kwargs: Any):  # type: ignore[no-untyped-def] # noqa: ANN202
        return with_default(*args, **kwargs)

    class Awaits:
        def __init__(self, event: Paid) -> None: ...

        def __await__(self) -> Generator[None, None, None]:
            yield

    for handler in (
        Welcome().handle,
        with_default,
        delegates,
        decorated,
        decorated_without_a_word,
        Awaits,
        AsyncMock(),
        functools.partial(takes_more, session=None),
        lambda event: takes_more(event, None),
    ):
        consumer = EventHandlerConsumer("accounts", {Paid: handler})
        IntegrationEventBusRegistration(consumer, Topic("t"), [Paid]).check()


def test_a_handler_is_believed_that_says_nothing_against_the_event() -> None:
    @functools.wraps(on_refunded)
    async def converts(event: Paid) -> None: ...

    async def of_several(event: "Refunded | Paid") -> None: ...

    async def of_all(event: IntegrationEvent) -> None: ...

    async def of_who_knows(event: "Unknown") -> None: ...  # type: ignore[name-defined] # noqa: F821 # pyright: ignore[reportUndefinedVariable]

    class WithAttribute:
        event: Refunded

        async def __call__(self, event: Paid) -> None: ...

    for handler in (converts, of_several, of_all, of_who_knows, WithAttribute()):
        consumer = EventHandlerConsumer("accounts", {Paid: handler})
        IntegrationEventBusRegistration(consumer, Topic("t"), [Paid]).check()


def test_a_handler_is_believed_whose_annotation_is_found_under_the_same_name_elsewhere() -> None:
    async def of_paid(event: "Paid") -> None: ...

    local = type("Paid", (IntegrationEvent,), {"type": "topology.paid.local", "version": 1})
    consumer = EventHandlerConsumer("accounts", {local: of_paid})
    IntegrationEventBusRegistration(consumer, Topic("t"), [local]).check()


def test_a_class_in_place_of_a_list_of_classes_is_named() -> None:
    with pytest.raises(InvalidTopologyError, match=r"write \[Paid\]"):
        IntegrationEventBusRegistration(Collector("c"), Topic("t"), Paid)  # type: ignore[arg-type]


def test_delays_grow_by_the_factor_up_to_the_most() -> None:
    policy = RetryPolicy(delay=1, factor=3, max_delay=20, jitter=0)
    assert [policy.delay_after(n) for n in range(1, 6)] == [1, 3, 9, 20, 20]
    assert policy.delay_after(10_000) == 20


def test_jitter_stays_within_its_share_and_varies() -> None:
    policy = RetryPolicy(delay=10, jitter=0.2)
    delays = {policy.delay_after(1) for _ in range(200)}
    assert len(delays) > 100
    assert all(8 <= delay <= 12 for delay in delays)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"attempts": 0}, "attempts must be at least 1"),
        ({"delay": -1}, "delay must not be negative"),
        ({"factor": 0.5}, "factor must be at least 1"),
        ({"max_delay": -1}, "max_delay must not be negative"),
        ({"max_delay": 1e10}, "max_delay must be a year at most"),
        ({"jitter": 1}, "jitter must be a share"),
        ({"in_place": -1}, "in_place must not be negative"),
        ({"delay": "1"}, "delay must be a number, not '1'"),
        ({"attempts": None}, "attempts must be a number, not None"),
        ({"in_place": True}, "in_place must be a number, not True"),
        ({"dead_letter_on": [ValueError]}, r"a tuple of exception classes, as in \(ValueError,\)"),
        ({"dead_letter_on": ("ValueError",)}, "dead_letter_on must be a tuple"),
    ],
)
def test_a_policy_that_cannot_work_says_why(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidTopologyError, match=reason):
        RetryPolicy(**wrong)


def forgets_to_return(handler: Callable[[Paid], Awaitable[None]]) -> Any:
    @functools.wraps(handler)
    def wrapped(event: Paid) -> None:
        handler(event).close()  # type: ignore[attr-defined]

    return wrapped


@pytest.mark.parametrize("handler", [lambda _: None, forgets_to_return(ignore)])
async def test_a_handler_that_turns_out_not_to_be_async_is_named(handler: Any) -> None:
    consumer = EventHandlerConsumer("sync", {Paid: handler})
    with pytest.raises(TypeError, match=r"returned None, which cannot be awaited: .*async def"):
        await consumer.on_event(Paid(1))


async def test_a_type_error_of_a_handler_stays_as_it_is() -> None:
    error = TypeError("its own")

    async def fails(_: Paid) -> None:
        raise error

    with pytest.raises(TypeError) as raised:
        await EventHandlerConsumer("typed", {Paid: fails}).on_event(Paid(1))
    assert raised.value is error


class BareBus(IntegrationEventBus):
    async def send(self, topic: Topic, event: IntegrationEvent) -> None: ...


def make_bare(registrations: list[IntegrationEventBusRegistration] | None) -> IntegrationEventBus:
    return BareBus(registrations)


BUSES: list[Any] = [
    BareBus,
    RecordingIntegrationEventBus,
    InMemoryIntegrationEventBus,
    InMemoryBroadcastIntegrationEventBus,
    partial(RabbitMQIntegrationEventBus, "amqp://127.0.0.1"),
    partial(RedisStreamsIntegrationEventBus, "redis://127.0.0.1"),
    partial(RedisPubSubIntegrationEventBus, "redis://127.0.0.1"),
    partial(NatsIntegrationEventBus, "nats://127.0.0.1"),
]


@pytest.mark.parametrize("bus", BUSES)
async def test_every_bus_is_made_with_a_list_of_registrations_or_with_none(bus: Any) -> None:
    assert bus(None).registrations == []
    assert bus(registrations=None).registrations == []
    registration = IntegrationEventBusRegistration(Collector("c"), Topic("t"), [Paid])
    assert bus([registration]).registrations == [registration]


@pytest.mark.parametrize("bus", BUSES)
async def test_what_is_unregistered_is_found_by_consumer_and_topic(bus: Any) -> None:
    made = bus()
    for name, topic in ("a", "t"), ("b", "t"), ("a", "u"):
        await made.register(IntegrationEventBusRegistration(Collector(name), Topic(topic), [Paid]))
    _, other, third = made.registrations
    await made.unregister(IntegrationEventBusRegistration(Collector("a"), Topic("t"), [Refunded]))
    assert made.registrations == [other, third]
    await made.unregister(third)
    assert made.registrations == [other]
    with pytest.raises(ValueError, match=r"Collector\('a'\).* it is not registered with this bus"):
        await made.unregister(third)


async def test_of_two_alike_the_very_one_is_unregistered() -> None:
    first, second = (
        IntegrationEventBusRegistration(Collector("a"), Topic("t"), [Paid]) for _ in range(2)
    )
    bus = make_bare([first, second])
    await bus.unregister(second)
    assert bus.registrations == [first]
