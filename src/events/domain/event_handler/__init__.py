"""Handlers of domain events, the registry that finds them, the factory that makes them."""

from __future__ import annotations

from events.domain.event_handler.factory import (
    DomainEventHandlerFactory,
    SimpleDomainEventHandlerFactory,
)
from events.domain.event_handler.handler import DomainEventHandler, DomainEventHandlerRegistry

__all__ = [
    "DomainEventHandler",
    "DomainEventHandlerFactory",
    "DomainEventHandlerRegistry",
    "SimpleDomainEventHandlerFactory",
]
