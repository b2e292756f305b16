"""Integration events: versioned messages to other services, and the buses that carry them."""

from events.integration.bus import IntegrationEventBus
from events.integration.event import EventKey, EventRegistry, IntegrationEvent
from events.integration.message import DeadLetter, Delivery, Message, correlate, current_delivery
from events.integration.outbox import Outbox, OutboxRelay
from events.integration.personal import PII
from events.integration.pipeline import Handle, IncomingEvent, ManagedMiddleware, Middleware
from events.integration.topology import (
    Consumer,
    EventHandler,
    EventHandlerConsumer,
    EventHandlerRegistry,
    IntegrationEventBusRegistration,
    RetryPolicy,
    Topic,
)
from events.integration.transport import Transport, TransportFeatures

__all__ = [
    "PII",
    "Consumer",
    "DeadLetter",
    "Delivery",
    "EventHandler",
    "EventHandlerConsumer",
    "EventHandlerRegistry",
    "EventKey",
    "EventRegistry",
    "Handle",
    "IncomingEvent",
    "IntegrationEvent",
    "IntegrationEventBus",
    "IntegrationEventBusRegistration",
    "ManagedMiddleware",
    "Message",
    "Middleware",
    "Outbox",
    "OutboxRelay",
    "RetryPolicy",
    "Topic",
    "Transport",
    "TransportFeatures",
    "correlate",
    "current_delivery",
]


def __dir__() -> list[str]:
    return __all__
