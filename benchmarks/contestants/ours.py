"""Ours, on every broker: the same few lines."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, Unpack, cast

from benchmarks.contestants import PREFETCH, Contestant
from benchmarks.workload import Handle, Order, OrderPlaced, Send, in_flight
from events.integration import (
    EventHandlerConsumer,
    IntegrationEventBusRegistration,
    Topic,
)
from events.integration.implementation.base import BusOptions, TransportIntegrationEventBus

CONSUMER = "bench"
Registrations: TypeAlias = Sequence[IntegrationEventBusRegistration]


async def ignore(event: Any) -> None:
    pass


class Ours(Contestant):
    """`many=True` sends with `send_many`; else each event with `send`, as request handlers do."""

    name = "ours"
    event = OrderPlaced
    many = True

    def bus(
        self, registrations: Registrations = (), **options: Unpack[BusOptions]
    ) -> TransportIntegrationEventBus:
        raise NotImplementedError

    def registration(
        self, place: str, handle: Handle, concurrency: int = PREFETCH
    ) -> IntegrationEventBusRegistration:
        consumer = EventHandlerConsumer(CONSUMER, {OrderPlaced: handle})
        return IntegrationEventBusRegistration(
            consumer, Topic(place), [OrderPlaced], concurrency=concurrency
        )

    async def prepare(self, place: str) -> None:
        async with self.bus([self.registration(place, ignore)]):
            pass

    @asynccontextmanager
    async def publishing(self, place: str) -> AsyncGenerator[Send]:
        topic = Topic(place)
        async with self.bus() as bus:

            async def send(orders: Iterable[Order], at_once: int) -> None:
                if at_once == 1 or not self.many:
                    await in_flight(
                        lambda order: bus.send(topic, cast("OrderPlaced", order)), orders, at_once
                    )
                else:
                    chunk: list[Any] = []
                    for order in orders:
                        chunk.append(order)
                        if len(chunk) == at_once:
                            await bus.send_many(topic, chunk)
                            chunk.clear()
                    await bus.send_many(topic, chunk)

            yield send

    @asynccontextmanager
    async def consuming(self, place: str, handle: Handle) -> AsyncGenerator[None]:
        async with self.bus([self.registration(place, handle)]):
            yield
