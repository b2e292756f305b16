"""The bus on NATS JetStream; needs the extra `nats`."""

from events.errors import MissingExtraError

try:
    import nats as _  # noqa: F401 - whether it is there
except ImportError as error:
    raise MissingExtraError(__name__, "nats") from error

from events.integration.implementation.nats.bus import NatsIntegrationEventBus, NatsTransport

__all__ = ["NatsIntegrationEventBus", "NatsTransport"]
