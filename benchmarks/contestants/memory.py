"""Within one process: ours alone, as the floor of what a delivery costs us."""

from __future__ import annotations

from typing import Unpack

from benchmarks.contestants import Contestant
from benchmarks.contestants.ours import Ours, Registrations
from events.integration.implementation.base import BusOptions
from events.integration.implementation.memory import InMemoryBroker, InMemoryIntegrationEventBus


class OursInMemory(Ours):
    def __init__(self) -> None:
        self.broker = InMemoryBroker()

    def bus(
        self, registrations: Registrations = (), **options: Unpack[BusOptions]
    ) -> InMemoryIntegrationEventBus:
        return InMemoryIntegrationEventBus(registrations, broker=self.broker, **options)

    async def remove(self, place: str) -> None:
        self.broker = InMemoryBroker()


CONTESTANTS: tuple[Contestant, ...] = (OursInMemory(),)
