"""Topics, consumers and registrations."""

from events.integration.topology.consumer import (
    Consumer,
    EventHandler,
    EventHandlerConsumer,
    EventHandlerRegistry,
)
from events.integration.topology.registration import IntegrationEventBusRegistration
from events.integration.topology.retry import RetryPolicy
from events.integration.topology.topic import Topic

__all__ = [
    "Consumer",
    "EventHandler",
    "EventHandlerConsumer",
    "EventHandlerRegistry",
    "IntegrationEventBusRegistration",
    "RetryPolicy",
    "Topic",
]
