"""The bus over NATS JetStream.

Needs the extra `nats`: `pip install "integration-events[nats]"`.
"""

from events.integration.implementation.nats import NatsIntegrationEventBus as NATSBus

__all__ = ["NATSBus"]
