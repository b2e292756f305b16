"""A consumer made of functions, any number for each event class."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, KeysView, Mapping
from typing import Any, TypeAlias, TypeVar, cast

from events.errors import InvalidTopologyError
from events.integration.event import IntegrationEvent
from events.integration.topology.checks import takes_another_than, why_not_a_handler
from events.integration.topology.consumer.base import Consumer
from events.integration.topology.registration import IntegrationEventBusRegistration
from events.integration.topology.retry import RetryPolicy
from events.integration.topology.topic import Topic

__all__ = ["EventHandler", "EventHandlerConsumer", "EventHandlerRegistry"]

E = TypeVar("E", bound="IntegrationEvent")
A = TypeVar("A", bound=Awaitable[None])

# Any, as a mapping cannot say that each value takes what its key makes.
EventHandler: TypeAlias = Callable[[Any], Awaitable[None]]
"""An async function of one event."""

EventHandlerRegistry: TypeAlias = dict[type[IntegrationEvent], list[EventHandler]]
"""Handlers by the class of the event they take."""


class EventHandlerConsumer(Consumer):
    """Hand each event to the functions that are registered for its class.

    The handlers of an event are awaited one after another, in their order. The first that raises
    keeps the event from the later ones, and a retry calls all of them again: what must not be
    repeated because something else failed belongs into a consumer of another name.

    Args:
        name: See `Consumer`.
        handlers: A list of functions for each event class, or one function alone. A dict is the
            consumer's from now on, not copied: what is added to it before the consumer is
            registered counts, and one function alone becomes a list in it.
    """

    def __init__(
        self,
        name: str,
        handlers: Mapping[type[E], EventHandler | Iterable[EventHandler]] | None = None,
    ) -> None:
        super().__init__(name)
        given: object = {} if handlers is None else handlers
        if not isinstance(given, Mapping):
            raise InvalidTopologyError(
                repr(self),
                f"handlers must map event classes to functions, as in "
                f"{{UserRegisteredV1: [send_welcome]}}, not {given!r}",
            )
        self._handlers = cast(
            "EventHandlerRegistry", given if isinstance(given, dict) else dict(given)
        )

    @property
    def handlers(self) -> EventHandlerRegistry:
        """The handlers by event class, each a list: `consumer.handlers[E].append(g)` adds one."""
        for event in self._handlers:
            self._handlers_of(event)
        return self._handlers

    def add_handler(self, event_type: type[E], handler: Callable[[E], Awaitable[None]]) -> None:
        """Call this function for events of this class, after those that are there already."""
        self._require_event(event_type, "add_handler(UserRegisteredV1, send_welcome)")
        self._handlers.setdefault(event_type, [])
        self._handlers_of(event_type).append(handler)

    def on(self, event_type: type[E]) -> Callable[[Callable[[E], A]], Callable[[E], A]]:
        """Decorate a function to add it as a handler of this class.

        @emails.on(UserRegisteredV1)
        async def send_welcome(event: UserRegisteredV1) -> None: ...
        """
        self._require_event(event_type, "@consumer.on(UserRegisteredV1)")

        def add(handler: Callable[[E], A]) -> Callable[[E], A]:
            self.add_handler(event_type, handler)
            return handler

        return add

    def subscribe(
        self,
        topic: Topic,
        *,
        concurrency: int = 1,
        order_by: Callable[[Any], object] | None = None,
        retry: RetryPolicy | None = None,
    ) -> IntegrationEventBusRegistration:
        """Give the registration on this topic of all events that have handlers.

        Handlers that are added before it reaches a bus take part; for the options see
        `IntegrationEventBusRegistration`.
        """
        return IntegrationEventBusRegistration(
            self, topic, concurrency=concurrency, order_by=order_by, retry=retry
        )

    async def on_event(self, event: IntegrationEvent) -> None:
        """Await the handlers of the event's class, one after another."""
        handlers = self._handlers.get(type(event))
        if type(handlers) is not list:  # none yet, or what a dict of the user's holds
            handlers = self._handlers_of(type(event))
        if not handlers:
            raise InvalidTopologyError(
                repr(self),
                f"it has no handler for {type(event).__qualname__}; "
                f"add one with add_handler, or leave the class out of the registration",
            )
        for handler in handlers:
            returned = handler(event)
            try:
                await returned
            except TypeError as error:
                given: object = returned
                if isinstance(given, Awaitable):
                    raise
                raise TypeError(
                    f"{handler!r} returned {returned!r}, which cannot be awaited: write it as "
                    f"`async def`, and have what wraps it return what it returned"
                ) from error

    def handled_events(self) -> KeysView[type[IntegrationEvent]]:
        """Give the classes that have handlers, as a live view."""
        return self._handlers.keys()

    def why_not(self, event_type: type[IntegrationEvent]) -> str | None:
        """Say what speaks against its handlers of this class."""
        handlers = self._handlers_of(event_type)
        if not handlers:
            return (
                f"the consumer has no handler for {event_type.__qualname__}; "
                f"add one with add_handler, or leave the class out"
            )
        for handler in handlers:
            reason = why_not_a_handler(handler)
            if reason is None and (other := takes_another_than(handler, event_type)) is not None:
                reason = f"it says that it takes {other}"
            if reason is not None:
                return f"{handler!r} cannot handle {event_type.__qualname__}: {reason}"
        return None

    def _require_event(self, event_type: object, example: str) -> None:
        if not (isinstance(event_type, type) and issubclass(event_type, IntegrationEvent)):
            raise InvalidTopologyError(
                repr(self), f"{event_type!r} is not an IntegrationEvent class: write {example}"
            )

    def _handlers_of(self, event: type[IntegrationEvent]) -> list[EventHandler]:
        """Give the list of an event's handlers, which a user's dict may hold in another form."""
        handlers = self._handlers.get(event, [])
        given: object = handlers
        if not isinstance(given, list):
            several = isinstance(given, Iterable) and not callable(given)
            handlers = list(handlers) if several else [cast("EventHandler", given)]
            self._handlers[event] = handlers
        return handlers
