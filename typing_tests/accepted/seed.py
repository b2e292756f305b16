"""The shape of the first two systems, a custom bus and an outbox: nothing to find here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_type

from events.domain.aggregate import AggregateRoot
from events.domain.dispatcher import DomainEventDispatcher
from events.domain.event import DomainEvent
from events.domain.event_handler import DomainEventHandler
from events.integration.bus import IntegrationEventBus
from events.integration.event import IntegrationEvent
from events.integration.topology import IntegrationEventBusRegistration, Topic
from events.integration.topology.consumer import EventHandlerConsumer
from events.integration.topology.consumer.handler import EventHandler, EventHandlerRegistry


@dataclass
class OrderCompleted(DomainEvent):
    type = "order.completed"
    order: Order


class Order(AggregateRoot):
    def complete(self) -> None:
        self.publish_event(OrderCompleted(self))


class CreateInvoice(DomainEventHandler[OrderCompleted]):
    async def handle(self, event: OrderCompleted) -> None:
        assert_type(event.order, Order)


async def complete(dispatcher: DomainEventDispatcher, order: Order) -> None:
    async with dispatcher:
        order.complete()
        dispatcher.from_entity(order)
    await dispatcher.process()


@dataclass
class UserRegisteredV1(IntegrationEvent):
    type = "user.registered"
    version = 1

    email: str


class Bus(IntegrationEventBus):
    def __init__(self, registrations: list[IntegrationEventBusRegistration] | None = None) -> None:
        super().__init__(registrations)

    async def register(self, registration: IntegrationEventBusRegistration) -> None:
        await super().register(registration)
        for event in registration.events:
            assert_type(event, type[IntegrationEvent])
            assert_type(event.type, str)

    async def send(self, topic: Topic, event: IntegrationEvent) -> None:
        for registration in self.registrations:
            if registration.topic == topic and type(event) in registration.events:
                await registration.consumer.on_event(event)


class OutboxProcessor:
    def __init__(self, rows: list[tuple[str, dict[str, Any]]], bus: IntegrationEventBus) -> None:
        self.rows = rows
        self.bus = bus

    async def process(self) -> None:
        for topic, payload in self.rows:
            await self.bus.send(topic=Topic(topic), event=IntegrationEvent.from_dict(payload))


async def print_event(event: UserRegisteredV1) -> None:
    assert_type(event.email, str)


def handlers(more: EventHandler | None = None) -> EventHandlerRegistry:
    return {UserRegisteredV1: [print_event] if more is None else [print_event, more]}


async def main() -> None:
    bus = Bus()
    consumer = EventHandlerConsumer(name="email", handlers={UserRegisteredV1: [print_event]})
    assert_type(consumer.handlers, dict[type[IntegrationEvent], list[EventHandler]])
    await bus.register(
        IntegrationEventBusRegistration(
            consumer=consumer, topic=Topic("users"), events=consumer.handlers.keys()
        )
    )
    await bus.register(
        IntegrationEventBusRegistration(
            EventHandlerConsumer("others", handlers()), Topic("users"), [UserRegisteredV1]
        )
    )
    await OutboxProcessor([("users", UserRegisteredV1(email="a@b").to_dict())], bus).process()
