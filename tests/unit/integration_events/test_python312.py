"""PEP 695: `type X = ...` and `def f[E]()`, where the interpreter has them. A string hides them."""

import sys
from typing import Any

import pytest

from events.integration import EventRegistry, IntegrationEvent
from events.integration.implementation.memory import InMemoryIntegrationEventBus
from events.integration.topology import EventHandlerConsumer, Topic
from events.testing import until_quiet

pytestmark = pytest.mark.skipif(sys.version_info < (3, 12), reason="PEP 695 is of Python 3.12")

SOURCE = """
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import get_type_hints

from dishka import Provider, Scope, make_container

from events.integration import EventHandler, EventHandlerConsumer, EventHandlerRegistry
from events.integration.implementation.dishka import DishkaHandler, IntegrationEventHandler

type Money = int
type Handler[E] = Callable[[E], Awaitable[None]]
type Handlers = EventHandlerRegistry


@dataclass
class Change[T](Base, abstract=True):
    value: T


@dataclass
class Paid(Change[int]):
    type = "python312.paid"
    version = 1

    value: int
    fee: Money = 0


@dataclass
class Refunded(Base):
    type: str = "python312.refunded"
    version: int = 1

    amount: Money


class Store[E]:
    def __init__(self) -> None:
        self.events: list[E] = []

    async def handle(self, event: E) -> None:
        self.events.append(event)


class StorePaid(Store[Paid], IntegrationEventHandler[Paid]):
    async def handle(self, event: Paid) -> None:
        await super().handle(event)


async def handle_any[E: Base](event: E) -> None:
    seen.append(event)


def consumer_of[E: Base](name: str, event: type[E], *handlers: Handler[E]) -> EventHandlerConsumer:
    return EventHandlerConsumer(name, {event: list(handlers)})


class Holder:
    def __init__(self, handlers: Handlers | None = None) -> None:
        self.handlers = handlers


seen = []
paid, refunded = StorePaid(), Store[Refunded]()
consumer = consumer_of("books", Paid, paid.handle, handle_any)


@consumer.on(Refunded)
async def on_refunded(event: Refunded) -> None:
    await refunded.handle(event)


stand_in = DishkaHandler(StorePaid)
hints = get_type_hints(Holder.__init__)
provider = Provider(scope=Scope.APP)
provider.provide(lambda: consumer.handlers, provides=EventHandlerRegistry)
provided = make_container(provider).get(EventHandlerRegistry)
"""


class Base(IntegrationEvent, abstract=True):
    registry = EventRegistry()


async def test_the_integration_side_in_the_syntax_of_python_312() -> None:
    module: dict[str, Any] = {"Base": Base, "__name__": __name__}
    exec(compile(SOURCE, "<Python 3.12>", "exec"), module)
    paid = module["Paid"](value=3, fee=1)
    assert Base.from_dict(paid.to_dict()) == paid
    assert repr(paid) == "Paid(type='python312.paid', version=1, value=3, fee=1)"
    consumer: EventHandlerConsumer = module["consumer"]
    assert module["provided"] is consumer.handlers
    topic = Topic("python312")
    async with InMemoryIntegrationEventBus([consumer.subscribe(topic)]) as bus:
        await bus.send(topic, paid)
        await bus.send(topic, module["Refunded"](amount=2))
        await until_quiet(bus)
        assert not await bus.dead_letters(consumer)
    assert module["paid"].events == module["seen"] == [paid]
    assert [event.amount for event in module["refunded"].events] == [2]
