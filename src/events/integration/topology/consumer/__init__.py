"""Who receives events: the port, and a consumer made of functions."""

from events.integration.topology.consumer.base import Consumer
from events.integration.topology.consumer.handler import EventHandlerConsumer, EventHandlerRegistry

__all__ = ["Consumer", "EventHandlerConsumer", "EventHandlerRegistry"]
