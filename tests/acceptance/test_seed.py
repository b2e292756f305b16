"""The document that this package was asked for by, typed in block by block, on all buses.

What it says is written here as it says it. It is mended only where it is no Python: an argument by
position after one by keyword, `from_context:` in a call, a misspelt name, `Consumer(...)` of the
class that the document itself calls abstract, and `...` where a reader is to go on. Type checkers know no
dataclass with a default before a field without one, hence the comments for them; `type = "..."`, in
typing_tests/accepted, needs none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import NewType
from uuid import UUID, uuid4

import pytest
from dishka import AsyncContainer, Provider, Scope, make_async_container

from events.domain.aggregate import AggregateRoot
from events.domain.dispatcher import DomainEventDispatcher
from events.domain.event import DomainEvent
from events.domain.event_handler import DomainEventHandler, DomainEventHandlerRegistry
from events.domain.implementation.dishka import DomainEventImplementationProvider
from events.integration.bus import IntegrationEventBus
from events.integration.event import EventRegistry, IntegrationEvent
from events.integration.topology import Consumer, IntegrationEventBusRegistration, Topic
from events.integration.topology.consumer import EventHandlerConsumer
from events.testing import eventually
from events.testing.contracts import Harness
from tests.brokers.rabbitmq_server import RabbitMQHarness, rabbitmq_url
from tests.contracts.nats_harness import NatsHarness
from tests.contracts.sqlalchemy_bus import SQLiteHarness
from tests.contracts.test_memory_bus import MemoryHarness
from tests.contracts.test_redis_pubsub_bus import PubSubHarness
from tests.contracts.test_redis_streams_bus import StreamsHarness

__all__ = ["rabbitmq_url"]

TIMEOUT = 120.0

# The examples, which other tests import, have an event of the same type and version.
_of_others = IntegrationEvent.registry
_registry = IntegrationEvent.registry = EventRegistry()

# --- Toy example: order and invoice

OrderId = NewType("OrderId", UUID)
InvoiceId = NewType("InvoiceId", UUID)


@dataclass
class OrderCompleted(DomainEvent):
    # Domain event has a mandatory `type` abstract property to be defined
    type: str = "order.completed"  # type: ignore[misc] # pyright: ignore[reportIncompatibleVariableOverride]
    order: Order  # type: ignore[misc] # pyright: ignore[reportGeneralTypeIssues]


class OrderStatus(Enum):
    NEW = "new"
    COMPLETED = "completed"


@dataclass
class Order(AggregateRoot):
    id: OrderId
    items: list[str] = field(default_factory=list)
    status: OrderStatus = OrderStatus.NEW

    def complete(self) -> None:
        if len(self.items) == 0:
            raise ValueError("Can't complete an empty order")

        self.status = OrderStatus.COMPLETED
        self.publish_event(OrderCompleted(self))  # type: ignore[arg-type,call-arg] # pyright: ignore[reportCallIssue]


@dataclass
class Invoice:
    id: InvoiceId
    order_id: OrderId


class InvoiceRepository:
    def __init__(self) -> None:
        self.invoices: list[Invoice] = []

    def get_next_id(self) -> InvoiceId:
        return InvoiceId(uuid4())

    async def insert(self, invoice: Invoice) -> None:
        self.invoices.append(invoice)


class OrderRepository:
    def __init__(self) -> None:
        self.orders: dict[OrderId, Order] = {}
        self.updated: list[OrderId] = []

    async def get_by_id(self, order_id: OrderId) -> Order:
        return self.orders[order_id]

    async def update(self, order: Order) -> None:
        self.updated.append(order.id)


class Transaction:
    def __init__(self) -> None:
        self.ended_by: list[str] = []

    async def commit(self) -> None:
        self.ended_by.append("commit")

    async def rollback(self) -> None:
        self.ended_by.append("rollback")


class CreateInvoiceOnOrderCompleted(DomainEventHandler[OrderCompleted]):
    def __init__(self, repository: InvoiceRepository) -> None:
        self.repository = repository

    async def handle(self, event: OrderCompleted) -> None:
        invoice = Invoice(id=self.repository.get_next_id(), order_id=event.order.id)
        await self.repository.insert(invoice)


class CompleteOrderInteractor:
    def __init__(
        self,
        dispatcher: DomainEventDispatcher,
        repository: OrderRepository,
        transaction: Transaction,
    ) -> None:
        self.dispatcher = dispatcher
        self.repository = repository
        self.transaction = transaction

    async def __call__(self, order_id: OrderId) -> None:
        try:
            # 1. Get order and mark it as completed
            order = await self.repository.get_by_id(order_id)
            order.complete()

            # 2. Get events from the order entity
            self.dispatcher.from_entity(order)

            # 3. Call process() to call handlers
            # This will call CreateInvoiceOnOrderCompleted and add the invoice in the same transaction
            # If that fails, nothing gets saved
            await self.dispatcher.process()

            # 4. Update the order and commit the transaction to save it
            await self.repository.update(order)
            await self.transaction.commit()
        except:
            await self.transaction.rollback()
            raise

    async def in_a_block(self, order_id: OrderId) -> None:
        # Events are processed at context manager exit
        async with self.dispatcher:
            order = await self.repository.get_by_id(order_id)
            order.complete()

            self.dispatcher.from_entity(order)


def container_of(context: dict[type, object] | None = None) -> AsyncContainer:
    application = Provider(scope=Scope.REQUEST)
    for each in (InvoiceRepository, OrderRepository, Transaction, CompleteOrderInteractor, Journal):
        application.provide(each)
    return make_async_container(
        DomainEventImplementationProvider(),
        application,
        context=context,
    )


async def test_an_invoice_is_made_in_the_same_transaction() -> None:
    async with container_of()() as request:
        complete = await request.get(CompleteOrderInteractor)
        order = Order(OrderId(uuid4()), items=["a book"])
        complete.repository.orders[order.id] = order
        await complete(order.id)
        (invoice,) = (await request.get(InvoiceRepository)).invoices
        assert invoice.order_id == order.id
        assert order.status is OrderStatus.COMPLETED
        assert complete.repository.updated == [order.id]
        assert complete.transaction.ended_by == ["commit"]


async def test_nothing_is_saved_if_it_fails() -> None:
    async with container_of()() as request:
        complete = await request.get(CompleteOrderInteractor)
        empty = complete.repository.orders[OrderId(uuid4())] = Order(OrderId(uuid4()))
        with pytest.raises(ValueError, match="Can't complete an empty order"):
            await complete(next(iter(complete.repository.orders)))
        assert empty.status is OrderStatus.NEW
        assert (await request.get(InvoiceRepository)).invoices == []
        assert complete.transaction.ended_by == ["rollback"]


async def test_the_dispatcher_as_a_context_manager() -> None:
    async with container_of()() as request:
        complete = await request.get(CompleteOrderInteractor)
        order = Order(OrderId(uuid4()), items=["a book"])
        complete.repository.orders[order.id] = order
        await complete.in_a_block(order.id)
        (invoice,) = (await request.get(InvoiceRepository)).invoices
        assert invoice.order_id == order.id


def test_the_type_of_a_domain_event_is_on_the_class_and_on_the_instance() -> None:
    event = OrderCompleted(Order(OrderId(uuid4())))  # type: ignore[arg-type,call-arg] # pyright: ignore[reportCallIssue]
    assert OrderCompleted.type == event.type == "order.completed"


# --- Dishka event handler factory


@dataclass
class Event1(DomainEvent):
    type = "seed.event1"


@dataclass
class Event2(DomainEvent):
    type = "seed.event2"


class Journal:
    def __init__(self) -> None:
        self.handled: list[str] = []


class EventHandler1(DomainEventHandler[Event1]):
    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    async def handle(self, event: Event1) -> None:
        self.journal.handled.append("1")


class EventHandler2(EventHandler1):
    async def handle(self, event: Event1) -> None:
        self.journal.handled.append("2")


class EventHandler3(DomainEventHandler[Event2]):
    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    async def handle(self, event: Event2) -> None:
        self.journal.handled.append("3")


@pytest.mark.parametrize(
    ("context", "handled"),
    [
        (None, ["1", "2", "3"]),
        (
            {
                DomainEventHandlerRegistry: DomainEventHandlerRegistry(
                    {
                        Event1: [EventHandler2, EventHandler1],
                        Event2: [EventHandler3],
                    }
                )
            },
            ["2", "1", "3"],
        ),
    ],
)
async def test_the_handlers_of_the_registry_in_the_context_or_of_all(
    context: dict[type, object] | None, handled: list[str]
) -> None:
    async with container_of(context)() as request:
        dispatcher = await request.get(DomainEventDispatcher)
        dispatcher.store_events([Event1(), Event2()])
        await dispatcher.process()
        assert (await request.get(Journal)).handled == handled


# --- Sending and receiving events


@dataclass
class IntegrationEvent1(IntegrationEvent):
    type = "seed.event1"
    version = 1


@dataclass
class EventType1(IntegrationEvent):
    type = "seed.event_type1"
    version = 1


@dataclass
class EventType2(IntegrationEvent):
    type = "seed.event_type2"
    version = 1
    number: int = 0


@dataclass
class UserRegisteredV1(IntegrationEvent):
    type: str = "user.registered"  # type: ignore[misc] # pyright: ignore[reportIncompatibleVariableOverride]
    version: int = 1  # type: ignore[misc] # pyright: ignore[reportIncompatibleVariableOverride]

    email: str  # type: ignore[misc] # pyright: ignore[reportGeneralTypeIssues]


IntegrationEvent.registry = _of_others


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IntegrationEvent, "registry", _registry)


def registered(email: str) -> UserRegisteredV1:
    return UserRegisteredV1(email=email)


BUSES: dict[str, Callable[[str], Harness]] = {
    "memory": lambda _: MemoryHarness(),
    "rabbitmq": RabbitMQHarness,
    "redis pub/sub": lambda _: PubSubHarness(),
    "redis streams": lambda _: StreamsHarness(),
    "nats": lambda _: NatsHarness(),
    "a database": lambda _: SQLiteHarness(),
}


@pytest.fixture(params=BUSES)
async def bus(request: pytest.FixtureRequest) -> AsyncGenerator[IntegrationEventBus]:
    url = request.getfixturevalue("rabbitmq_url") if request.param == "rabbitmq" else ""
    harness = await asyncio.to_thread(BUSES[request.param], url)  # as the tables are made in a loop
    yield harness.new_bus(connect_timeout=60, startup_timeout=240)
    await harness.aclose()


@pytest.fixture
def topic_name() -> str:
    """Brokers are shared, and keep what was sent."""
    return f"seed-{uuid4().hex}"


async def test_sending(bus: IntegrationEventBus, topic_name: str) -> None:
    await bus.startup()
    await bus.send(topic=Topic(topic_name), event=IntegrationEvent1())
    await bus.shutdown()


class Collector(Consumer):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.received: list[IntegrationEvent] = []

    async def on_event(self, event: IntegrationEvent) -> None:
        self.received.append(event)


async def test_receiving_what_was_registered(bus: IntegrationEventBus, topic_name: str) -> None:
    consumer = Collector(name=f"{topic_name}-consumer")
    await bus.register(
        IntegrationEventBusRegistration(
            consumer=consumer,
            topic=Topic(name=topic_name),
            events=[EventType1, EventType2],
        )
    )
    await bus.startup()

    for event in EventType1(), registered("nobody@localhost"), EventType2(number=2):
        await bus.send(Topic(topic_name), event)
    await eventually(lambda: len(consumer.received) == 2, TIMEOUT)
    assert consumer.received == [EventType1(), EventType2(2)]

    await bus.shutdown()


async def print_event(event: UserRegisteredV1) -> None:
    print(event.email, "registered!")  # noqa: T201 - as the document does


async def test_a_consumer_of_lists_of_functions(
    bus: IntegrationEventBus, topic_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[UserRegisteredV1] = []

    async def then(event: UserRegisteredV1) -> None:
        done.append(event)

    consumer = EventHandlerConsumer(
        name=f"{topic_name}-email",
        handlers={UserRegisteredV1: [print_event]},
    )
    await bus.register(
        IntegrationEventBusRegistration(
            consumer=consumer,
            topic=Topic(topic_name),
            events=consumer.handlers.keys(),
        )
    )
    consumer.handlers[UserRegisteredV1].append(then)
    await bus.startup()
    await bus.send(Topic(topic_name), registered("a@localhost"))
    await eventually(lambda: bool(done), TIMEOUT)
    assert capsys.readouterr().out == "a@localhost registered!\n"

    await bus.unregister(
        IntegrationEventBusRegistration(consumer, Topic(topic_name), [UserRegisteredV1])
    )
    assert bus.registrations == []
    await bus.shutdown()


# --- Constructing integration events


def test_the_type_is_on_the_class_and_on_the_instance() -> None:
    event = UserRegisteredV1(email="a@localhost")
    assert UserRegisteredV1.type == event.type == "user.registered"
    assert UserRegisteredV1.version == event.version == 1


def test_to_a_dict_and_back(capsys: pytest.CaptureFixture[str]) -> None:
    event = UserRegisteredV1(email="bbb@gmail.com")

    payload = event.to_dict()
    assert payload == {"type": "user.registered", "version": 1, "email": "bbb@gmail.com"}
    assert list(payload) == ["type", "version", "email"]

    constructed_event = IntegrationEvent.from_dict(payload)
    print(constructed_event)  # noqa: T201 - as the document does
    assert (
        capsys.readouterr().out
        == "UserRegisteredV1(type='user.registered', version=1, email='bbb@gmail.com')\n"
    )
    assert constructed_event == event
