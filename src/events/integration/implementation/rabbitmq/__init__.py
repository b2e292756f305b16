"""The bus over RabbitMQ. Needs the extra `rabbitmq`."""

from events.integration.implementation.rabbitmq.bus import RabbitMQIntegrationEventBus
from events.integration.implementation.rabbitmq.transport import RabbitMQTransport

__all__ = ["RabbitMQIntegrationEventBus", "RabbitMQTransport"]
