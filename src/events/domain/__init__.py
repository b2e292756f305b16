"""Domain events: published by aggregates, handled in the same transaction."""

from __future__ import annotations

from events.domain.aggregate import AggregateRoot, AggregateRootMixin
from events.domain.dispatcher import DomainEventDispatcher
from events.domain.event import DomainEvent
from events.domain.event_handler import (
    DomainEventHandler,
    DomainEventHandlerFactory,
    DomainEventHandlerRegistry,
    SimpleDomainEventHandlerFactory,
)

__all__ = [
    "AggregateRoot",
    "AggregateRootMixin",
    "DomainEvent",
    "DomainEventDispatcher",
    "DomainEventHandler",
    "DomainEventHandlerFactory",
    "DomainEventHandlerRegistry",
    "SimpleDomainEventHandlerFactory",
]
