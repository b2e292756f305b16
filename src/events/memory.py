"""Buses within this process, for tests, small programs and development. Needs no extra."""

from events.integration.implementation.memory import (
    InMemoryBroadcastIntegrationEventBus as MemoryBroadcastBus,
)
from events.integration.implementation.memory import InMemoryBroker as MemoryBroker
from events.integration.implementation.memory import InMemoryChannels as MemoryChannels
from events.integration.implementation.memory import InMemoryIntegrationEventBus as MemoryBus

__all__ = ["MemoryBroadcastBus", "MemoryBroker", "MemoryBus", "MemoryChannels"]
