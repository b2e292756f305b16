"""The in-memory broadcast under the contracts of every bus."""

from typing import Unpack

from events.integration.implementation.base import BusOptions
from events.integration.implementation.memory import (
    InMemoryBroadcastIntegrationEventBus,
    InMemoryChannels,
)
from events.testing.contracts import (
    DeliveryContracts,
    FailureContracts,
    Harness,
    LifecycleContracts,
)


class BroadcastHarness(Harness):
    timeout = 120.0
    deadline = 240.0

    def __init__(self) -> None:
        self.channels = InMemoryChannels()

    def new_bus(self, **options: Unpack[BusOptions]) -> InMemoryBroadcastIntegrationEventBus:
        return InMemoryBroadcastIntegrationEventBus(channels=self.channels, **options)

    async def open_resources(self) -> dict[str, int]:
        return {"listeners": self.channels.listeners}


class TestDelivery(DeliveryContracts):
    harness = BroadcastHarness


class TestFailure(FailureContracts):
    harness = BroadcastHarness


class TestLifecycle(LifecycleContracts):
    harness = BroadcastHarness
