"""The in-memory buses, and what stands behind them."""

from events.integration.implementation.memory.broadcast import (
    InMemoryBroadcastIntegrationEventBus,
    InMemoryBroadcastTransport,
    InMemoryChannels,
)
from events.integration.implementation.memory.broker import InMemoryBroker
from events.integration.implementation.memory.bus import (
    InMemoryIntegrationEventBus,
    InMemoryTransport,
)

__all__ = [
    "InMemoryBroadcastIntegrationEventBus",
    "InMemoryBroadcastTransport",
    "InMemoryBroker",
    "InMemoryChannels",
    "InMemoryIntegrationEventBus",
    "InMemoryTransport",
]
