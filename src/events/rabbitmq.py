"""The bus over RabbitMQ.

Needs the extra `rabbitmq`: `pip install "integration-events[rabbitmq]"`.
"""

from events.integration.implementation.rabbitmq import RabbitMQIntegrationEventBus as RabbitMQBus

__all__ = ["RabbitMQBus"]
