"""Handlers, dispatcher, bus and outbox from a dishka container.

Needs the extra `dishka`: `pip install "integration-events[dishka]"`.
"""

from events.domain.implementation.dishka import DishkaDomainEventHandlerFactory
from events.domain.implementation.dishka import (
    DomainEventImplementationProvider as DomainEventsProvider,
)
from events.integration.implementation.dishka import (
    DishkaHandler,
    DishkaScope,
    IntegrationEventHandler,
    OutboxProvider,
    current_scope,
    from_scope,
)
from events.integration.implementation.dishka import (
    IntegrationEventImplementationProvider as IntegrationEventsProvider,
)

__all__ = [
    "DishkaDomainEventHandlerFactory",
    "DishkaHandler",
    "DishkaScope",
    "DomainEventsProvider",
    "IntegrationEventHandler",
    "IntegrationEventsProvider",
    "OutboxProvider",
    "current_scope",
    "from_scope",
]
