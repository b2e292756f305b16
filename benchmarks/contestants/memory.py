"""Within one process: ours alone, as the floor of what a delivery costs us."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.contestants import Contestant
from benchmarks.contestants.ours import Ours
from events.integration import IntegrationEventBusRegistration
from events.integration.implementation.memory import InMemoryBroker, InMemoryIntegrationEventBus


class OursInMemory(Ours):
    def __init__(self) -> None:
        self.broker = InMemoryBroker()

    def bus(self, registrations: Sequence[IntegrationEventBusRegistration] = ()) -> InMemoryIntegrationEventBus:
        return InMemoryIntegrationEventBus(registrations, broker=self.broker)

    async def remove(self, place: str) -> None:
        self.broker = InMemoryBroker()


CONTESTANTS: tuple[Contestant, ...] = (OursInMemory(),)
