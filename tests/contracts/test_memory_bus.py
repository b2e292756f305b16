"""The in-memory bus under the contracts of every bus."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Unpack

from events.integration.implementation.base import BusOptions
from events.integration.implementation.memory import InMemoryBroker, InMemoryIntegrationEventBus
from events.testing.contracts import (
    DeliveryContracts,
    FailureContracts,
    Harness,
    LifecycleContracts,
)


class MemoryHarness(Harness):
    timeout = 120.0
    deadline = 240.0

    def __init__(self) -> None:
        self.broker = InMemoryBroker()

    def new_bus(self, **options: Unpack[BusOptions]) -> InMemoryIntegrationEventBus:
        return InMemoryIntegrationEventBus(broker=self.broker, **options)

    @asynccontextmanager
    async def break_dead_letters(self) -> AsyncGenerator[None, None]:
        kept, self.broker.max_dead_letters = self.broker.max_dead_letters, 0
        try:
            yield
        finally:
            self.broker.max_dead_letters = kept

    async def open_resources(self) -> dict[str, int]:
        return {"consumers": sum(self.broker.consumers().values())}


class TestDelivery(DeliveryContracts):
    harness = MemoryHarness


class TestFailure(FailureContracts):
    harness = MemoryHarness


class TestLifecycle(LifecycleContracts):
    harness = MemoryHarness
