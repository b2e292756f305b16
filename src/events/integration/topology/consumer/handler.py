"""`EventHandlerConsumer`, a consumer of functions, any number for each event class."""

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

E = TypeVar("E", bound="IntegrationEvent")
A = TypeVar("A", bound=Awaitable[None])

# Any: types cannot express that each value takes an instance of its key.
EventHandler: TypeAlias = Callable[[Any], Awaitable[None]]
"""An async function of one event."""

EventHandlerRegistry: TypeAlias = dict[type[IntegrationEvent], list[EventHandler]]
"""Handlers by the class of the event they take."""


class EventHandlerConsumer(Consumer):
    """Call the functions that are registered for the class of each event.

    The handlers of an event are awaited one after another, in order. If one raises, the later ones
    are not called, and a retry calls all of them again. Use another consumer, with another name,
    for a handler that must not be repeated because another one failed.

    Args:
        name: See `Consumer`.
        handlers: For each event class, a list of functions or a single function. A dict is not
            copied: handlers that you add to it before registration count, and the consumer
            replaces a single function in it by a list.
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
        """Call this function for events of this class, after the functions added before."""
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
        """Return the registration on this topic of all events that have handlers.

        It includes handlers that are added before it is given to a bus. For the options, see
        `IntegrationEventBusRegistration`.
        """
        return IntegrationEventBusRegistration(
            self, topic, concurrency=concurrency, order_by=order_by, retry=retry
        )

    async def on_event(self, event: IntegrationEvent) -> None:
        """Await the handlers of the event's class, one after another."""
        handlers = self._handlers.get(type(event))
        if type(handlers) is not list:  # not a list yet, but a value of a user's dict
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
                    f"`async def`, and return its result from any wrapper"
                ) from error

    def handled_events(self) -> KeysView[type[IntegrationEvent]]:
        """Return the classes that have handlers, as a live view."""
        return self._handlers.keys()

    def why_not(self, event_type: type[IntegrationEvent]) -> str | None:
        """Return why its handlers cannot handle this class, or None."""
        handlers = self._handlers_of(event_type)
        if not handlers:
            return (
                f"the consumer has no handler for {event_type.__qualname__}; "
                f"add one with add_handler, or leave the class out"
            )
        for handler in handlers:
            reason = why_not_a_handler(handler)
            if reason is None and (other := takes_another_than(handler, event_type)) is not None:
                reason = f"its annotation is {other}"
            if reason is not None:
                return f"{handler!r} cannot handle {event_type.__qualname__}: {reason}"
        return None

    def _require_event(self, event_type: object, example: str) -> None:
        if not (isinstance(event_type, type) and issubclass(event_type, IntegrationEvent)):
            raise InvalidTopologyError(
                repr(self), f"{event_type!r} is not an IntegrationEvent class: write {example}"
            )

    def _handlers_of(self, event: type[IntegrationEvent]) -> list[EventHandler]:
        """Return the list of an event's handlers; a user's dict may hold a single one."""
        handlers = self._handlers.get(event, [])
        given: object = handlers
        if not isinstance(given, list):
            several = isinstance(given, Iterable) and not callable(given)
            handlers = list(handlers) if several else [cast("EventHandler", given)]
            self._handlers[event] = handlers
        return handlers
