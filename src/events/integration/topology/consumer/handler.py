"""A consumer made of one function per event class."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from events.errors import InvalidTopologyError
from events.integration.event import IntegrationEvent
from events.integration.topology.consumer.base import Consumer

__all__ = ["EventHandlerConsumer", "EventHandlerRegistry"]

E = TypeVar("E", bound="IntegrationEvent")

# Any, as a mapping cannot say that each value takes what its key makes.
EventHandlerRegistry: TypeAlias = "dict[type[IntegrationEvent], Callable[[Any], Awaitable[None]]]"
"""Handlers by the class of the event they take."""


class EventHandlerConsumer(Consumer):
    """Hand each event to the function that is registered for its class.

    `handlers` is the consumer's own mapping and stays live, so a registration made with
    `consumer.handlers.keys()` includes what is added before it is registered with a bus.
    """

    def __init__(
        self,
        name: str,
        handlers: Mapping[type[IntegrationEvent], Callable[[Any], Awaitable[None]]] | None = None,
    ) -> None:
        super().__init__(name)
        self.handlers: EventHandlerRegistry = dict(handlers or {})

    def add_handler(self, event: type[E], handler: Callable[[E], Awaitable[None]]) -> None:
        """Handle events of this class with this function.

        Raises `InvalidTopologyError` if the class has a handler: an event has one per consumer.
        """
        if event in self.handlers:
            raise InvalidTopologyError(
                repr(self),
                f"it has a handler for {event.__qualname__} already; "
                f"call both from one function, or use two consumers",
            )
        self.handlers[event] = handler

    async def on_event(self, event: IntegrationEvent) -> None:
        """Await the handler of the event's class."""
        handler = self.handlers.get(type(event))
        if handler is None:
            raise InvalidTopologyError(
                repr(self),
                f"it has no handler for {type(event).__qualname__}; "
                f"add one with add_handler, or leave the class out of the registration",
            )
        await handler(event)
