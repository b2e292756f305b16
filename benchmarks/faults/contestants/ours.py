"""Sender and consumer with this package, in its defaults but for the lease."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.faults.contestants.common import CONSUMER, TEXT, TOPIC, Orders
from events.integration import (
    EventHandlerConsumer,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    Topic,
)
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.implementation.nats import NatsIntegrationEventBus
from events.integration.implementation.rabbitmq import RabbitMQIntegrationEventBus
from events.integration.implementation.redis import RedisStreamsIntegrationEventBus

LEASE = 5.0  # instead of 30 seconds, so that the measurement need not wait for it
BUSES: dict[str, Callable[..., TransportIntegrationEventBus]] = {
    "rabbitmq": RabbitMQIntegrationEventBus,
    "redis": partial(RedisStreamsIntegrationEventBus, lease=LEASE),
    "nats": partial(NatsIntegrationEventBus, lease=LEASE),
}


@dataclass(frozen=True)
class Numbered(IntegrationEvent):
    type = "faults.numbered"
    version = 1
    number: int
    text: str


def new_bus(orders: Orders) -> TransportIntegrationEventBus:
    more: dict[str, Any] = {} if orders.timeout is None else {"send_timeout": orders.timeout}
    return BUSES[orders.bus](orders.url, **more)


async def consume(orders: Orders) -> None:
    async def handle(event: Numbered) -> None:
        await orders.handle(event.number)

    consumer = EventHandlerConsumer(CONSUMER, {Numbered: handle})
    bus = new_bus(orders)
    await bus.register(
        IntegrationEventBusRegistration(consumer, Topic(TOPIC), consumer.handlers.keys())
    )
    await bus.startup()
    orders.note("ready")
    await bus.run()


async def send(orders: Orders) -> None:
    async with new_bus(orders) as bus:
        orders.note("ready")
        await orders.send_all(lambda number: bus.send(Topic(TOPIC), Numbered(number, TEXT)))
    orders.note("done")


async def operate(orders: Orders) -> None:
    """Do what an operator does when the cause is mended: send the dead letters back."""
    async with new_bus(orders) as bus:
        letters = await bus.dead_letters(CONSUMER)
        for letter in letters:
            orders.note("dead", 0, f"{letter.reason} after {letter.attempts} attempts")
        await bus.redrive(CONSUMER, letters)


def main() -> None:
    orders = Orders.read()
    logging.basicConfig(level="INFO")
    asyncio.run({"consumer": consume, "sender": send, "operator": operate}[orders.role](orders))


if __name__ == "__main__":
    main()
