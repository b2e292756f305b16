"""Consumers: the port, and a consumer made of functions."""

from events.integration.topology.consumer.base import Consumer
from events.integration.topology.consumer.handler import (
    EventHandler,
    EventHandlerConsumer,
    EventHandlerRegistry,
)

__all__ = ["Consumer", "EventHandler", "EventHandlerConsumer", "EventHandlerRegistry"]
