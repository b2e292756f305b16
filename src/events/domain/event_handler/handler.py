"""`DomainEventHandler`, and the registry that maps events to handlers.

A handler registers itself when its class is defined, so importing its module is enough.
"""

from __future__ import annotations

import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, ClassVar, Generic, Self, TypeVar

from events._class_names import full_name
from events.domain.event import DomainEvent
from events.domain.event_handler._handle_method import is_abstract, why_it_cannot_handle
from events.domain.event_handler._remade import is_copied_from
from events.domain.event_handler._type_argument import event_classes
from events.errors import (
    HandlerDefinitionError,
    HandlerNotRegisteredError,
    InvalidDomainEventError,
)

E = TypeVar("E", bound=DomainEvent, contravariant=True)  # noqa: PLC0105 - users write it, too
Event = TypeVar("Event", bound=DomainEvent)

logger = logging.getLogger("events.domain")


class DomainEventHandlerRegistry:
    """Map event classes to their handlers, in the order in which they run.

    An event's handlers are those registered for its class or any of its bases, each once, in the
    order of their first registration.

    Handlers register themselves in `DomainEventHandler.registry`. A registry that you make and
    pass to a factory holds only the handlers that you add.

    Args:
        handlers: handler classes by event class, to begin with.

    Raises:
        HandlerDefinitionError: a key is not an event, or a value not a concrete handler.
    """

    def __init__(
        self,
        handlers: Mapping[type[Any], Iterable[type[DomainEventHandler[Any]]]] | None = None,
    ) -> None:
        self._events: dict[type[DomainEventHandler[Any]], tuple[type[DomainEvent], ...]] = {}
        self._found: dict[type[DomainEvent], tuple[type[DomainEventHandler[Any]], ...]] = {}
        given: object = {} if handlers is None else handlers
        if not isinstance(given, Mapping):
            raise HandlerDefinitionError(
                given,
                "is not a mapping of events to handlers: write {Event: [Handler]}, or, for a "
                "list of handlers, DomainEventHandlerRegistry.of([Handler])",
            )
        for event_class, its_handlers in (handlers or {}).items():
            for handler in listed(its_handlers):
                self.add(event_class, handler)

    @property
    def handlers(self) -> dict[type[DomainEvent], list[type[DomainEventHandler[Any]]]]:
        """The handlers by event class; a copy."""
        by_event: dict[type[DomainEvent], list[type[DomainEventHandler[Any]]]] = {}
        for handler, events in self._events.items():
            for event in events:
                by_event.setdefault(event, []).append(handler)
        return by_event

    @classmethod
    def of(cls, handlers: Iterable[type[DomainEventHandler[Any]]]) -> Self:
        """Make a registry of these handlers only, each for the events in its type argument.

        Raises:
            HandlerDefinitionError: one of them is not a concrete handler.
        """
        registry = cls()
        for handler in listed(handlers):
            given: object = handler
            if not (isinstance(given, type) and issubclass(given, DomainEventHandler)):
                raise HandlerDefinitionError(given, "is not a subclass of DomainEventHandler")
            events = event_classes(handler, DomainEventHandler)
            if events is None:
                raise HandlerDefinitionError(
                    handler, "has a type variable as its event: pass its concrete subclasses"
                )
            for event_class in events:
                registry.add(event_class, handler)
        return registry

    def add(self, event: type[Event], handler: type[DomainEventHandler[Event]]) -> None:
        """Register a handler for an event class and its subclasses. Repeating it has no effect."""
        _check(event, handler)
        events = self._events.get(handler, ())
        if event not in events:
            self._events[handler] = (*events, event)
            self._found = {}

    def remove(self, event: type[Event], handler: type[DomainEventHandler[Event]]) -> None:
        """Undo `add`, for the same event class.

        Raises:
            HandlerNotRegisteredError: it was not registered for exactly that class.
        """
        events = self._events.get(handler, ())
        if event not in events:
            raise HandlerNotRegisteredError(handler, event)
        remaining = tuple(each for each in events if each is not event)
        if remaining:
            self._events[handler] = remaining
        else:
            del self._events[handler]
        self._found = {}

    def get(self, event: type[Event]) -> list[type[DomainEventHandler[Event]]]:
        """Return the handlers of an event class, in the order in which they run; a copy."""
        found = self._found.get(event)
        return list(self._find(event) if found is None else found)

    def _find(self, event_class: type[DomainEvent]) -> tuple[type[DomainEventHandler[Any]], ...]:
        check_event_class(event_class)
        found = self._found  # `add` and `remove` put another one in its place
        bases = set(event_class.__mro__)
        handlers = tuple(h for h, events in self._events.items() if not bases.isdisjoint(events))
        found[event_class] = handlers
        self._warn_of_outdated_handlers(event_class)
        if not handlers:
            logger.debug(
                "%s has no handlers; if you wrote some, are their modules imported?",
                event_class.__qualname__,
            )
        return handlers

    def _warn_of_outdated_handlers(self, event_class: type[DomainEvent]) -> None:
        """Warn about handlers of an earlier definition of the class: they do not get this one."""
        if "<locals>" in event_class.__qualname__:
            return
        name = _name(event_class)
        outdated = [
            handler.__qualname__
            for handler, events in self._events.items()
            if any(e is not event_class and _name(e) == name for e in events)
        ]
        if outdated:
            logger.warning(
                "%s was defined again after its handlers, which do not receive the new class: "
                "also define these handlers again: %s",
                event_class.__qualname__,
                ", ".join(outdated),
            )

    def _enter(
        self,
        handler: type[DomainEventHandler[Any]],
        events: tuple[type[DomainEvent], ...],
    ) -> None:
        """Add a handler that was just defined; it replaces an earlier definition of its class."""
        earlier = self._earlier_making(handler, events)
        if earlier is None:
            self._events[handler] = events
        else:
            before, self._events = self._events, {}
            for other, its_events in before.items():
                if other is not earlier:
                    self._events[other] = its_events
                    continue
                self._events[handler] = events
                if other.__module__ != handler.__module__:
                    # A file that was loaded under two names has two modules, each with its own
                    # events and handlers.
                    own = tuple(event for event in its_events if event not in events)
                    self._events |= {other: own} if own else {}
        self._found = {}

    def _earlier_making(
        self, handler: type, events: tuple[type[DomainEvent], ...]
    ) -> type[DomainEventHandler[Any]] | None:
        copied = (other for other in self._events if is_copied_from(other, handler))
        reloaded = (
            other
            for other, its_events in self._events.items()
            if "<locals>" not in handler.__qualname__  # a function may define several
            and full_name(other) == full_name(handler)
            and [*map(full_name, its_events)] == [*map(full_name, events)]
        )
        return next(copied, None) or next(reloaded, None)


class DomainEventHandler(ABC, Generic[E]):
    """Act on a domain event within its transaction. Subclass it with an event and a `handle`.

        class ShipOrder(DomainEventHandler[OrderPaid]):
            def __init__(self, session: AsyncSession) -> None: ...

            async def handle(self, event: OrderPaid) -> None: ...

    `DomainEventHandler[A | B]` receives both events, a base class of events every subclass of it,
    and `DomainEventHandler[DomainEvent]` every event.

    A subclass registers itself in `registry` when it is defined, unless it is abstract or its
    event is a type variable. A subclass of a handler is one more handler of the same events: both
    run, in the order of their definition. To vary a handler without running both, put the common
    code into an abstract base. A class that is defined again (by `@dataclass(slots=True)`, a
    reload, a notebook cell, a file that is run as `__main__` and imported as `main`) replaces its
    earlier definition.

    Raises:
        HandlerDefinitionError: the class does not handle an event, or its `handle` is not async or
            takes more than the event.
    """

    __slots__ = ()

    registry: ClassVar[DomainEventHandlerRegistry] = DomainEventHandlerRegistry()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if is_abstract(cls):
            _check_spelling(cls)
            return
        events = event_classes(cls, DomainEventHandler)
        reason = why_it_cannot_handle(cls)
        if reason is not None:
            raise HandlerDefinitionError(cls, reason)
        if events is not None:
            cls.registry._enter(cls, events)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    @abstractmethod
    async def handle(self, event: E) -> None:
        """Act on the event. An error ends the unit of work: later handlers do not run."""


def check_event_class(given: type[Any]) -> None:
    """Raise unless it is a class of events."""
    if not issubclass(given, DomainEvent):
        raise InvalidDomainEventError(
            given,
            "is not a DomainEvent, so it has no handlers: store instances of its subclasses"
            + (", not the classes themselves" if issubclass(given, type) else ""),
        )


def _name(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def _check_spelling(cls: type) -> None:
    """Raise for a misspelled `handle`, with which the handler would be abstract and never run."""
    names = (name for name, value in vars(cls).items() if inspect.iscoroutinefunction(value))
    for name in get_close_matches("handle", names, n=1, cutoff=0.8):
        if name != "handle" and not name.startswith("_"):
            raise HandlerDefinitionError(
                cls,
                f"has no `handle`, but an async `{name}`: rename it to `handle`, or to a name "
                f"that is less similar",
            )


def listed(
    handlers: Iterable[type[DomainEventHandler[Any]]],
) -> Iterable[type[DomainEventHandler[Any]]]:
    """Return the handlers, or raise if a single class is given instead of a list."""
    given: object = handlers
    if isinstance(given, type):
        raise HandlerDefinitionError(
            given, f"is a class, not a list of handlers: write [{given.__name__}]"
        )
    return handlers


def _check(event_class: Any, handler: Any) -> None:
    given: object = handler
    if not (isinstance(event_class, type) and issubclass(event_class, DomainEvent)):
        raise HandlerDefinitionError(
            given, f"is registered for {event_class!r}, which is not a DomainEvent subclass"
        )
    if not (isinstance(handler, type) and issubclass(handler, DomainEventHandler)):
        raise HandlerDefinitionError(
            given,
            f"is registered for {event_class.__qualname__}, but is not a subclass of "
            f"DomainEventHandler: register the class, not an instance or a function",
        )
    if inspect.isabstract(given):
        raise HandlerDefinitionError(
            given, "is abstract and cannot be instantiated: register its concrete subclasses"
        )
