"""The in-memory bus and its broker."""

from events.integration.implementation.memory.broker import InMemoryBroker
from events.integration.implementation.memory.bus import (
    InMemoryIntegrationEventBus,
    InMemoryTransport,
)

__all__ = ["InMemoryBroker", "InMemoryIntegrationEventBus", "InMemoryTransport"]
