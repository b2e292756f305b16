"""A consumer made of one function per event class."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from types import UnionType
from typing import Any, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from events.errors import InvalidTopologyError
from events.integration.annotations import signature_of
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


def why_not_a_handler(handler: object) -> str | None:
    """Say why this could never handle an event, or None if nothing speaks against it.

    A wrong handler would fail on each event, attempt after attempt, so it is looked at early. What
    cannot be told without a call is left alone.
    """
    if not callable(handler):
        return "it cannot be called: give a function, or a method such as `instance.handle`"
    if isinstance(handler, type) and not hasattr(handler, "__await__"):
        return (
            "it is a class: give a method of an instance, or, for dishka to make the instance, "
            f"`DishkaHandler({handler.__name__})`"
        )
    return why_not_awaited(handler, "the event", object())


def takes_another_than(handler: Callable[..., object], event: type[IntegrationEvent]) -> str | None:
    """Name what a handler says it takes, if that is an event and not this one.

    No type checker sees it in a mapping of handlers, whose values are all of one type.
    """
    if hasattr(handler, "__wrapped__"):
        return None  # the annotations are those of what is inside, and a decorator may convert
    # The annotations of an instance would be those of its class: of attributes, not of parameters.
    function: Any = handler
    if not inspect.isroutine(function):
        function = function.__call__
    try:
        hints = get_type_hints(function)
        hint = hints.get(next(iter(signature_of(function).parameters)))
    except Exception:  # noqa: BLE001 - an annotation may name what only a type checker knows
        return None
    classes = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    others: list[str] = []
    for each in classes:
        if not (isinstance(each, type) and issubclass(each, IntegrationEvent)):
            return None
        # Of one name: a text finds another class than a function's own, or it was made anew.
        if issubclass(event, each) or event.__name__ == each.__name__:
            return None
        others.append(each.__qualname__)
    return " or ".join(others)


def why_not_awaited(function: Callable[..., object], takes: str, *arguments: object) -> str | None:
    """Say why calling it with so many arguments could never give what can be awaited."""
    try:
        signature = signature_of(function)
    except (TypeError, ValueError):  # of a callable in C
        return None
    try:
        signature.bind(*arguments)
    except TypeError as error:
        return f"it must take {takes} and nothing more: {error}"
    if _returns_nothing_to_await(function, signature):
        return "it is not async: write it as `async def`"
    return None


def _returns_nothing_to_await(handler: object, signature: inspect.Signature) -> bool:
    if not (inspect.isfunction(handler) or inspect.ismethod(handler)):
        return False
    if inspect.iscoroutinefunction(handler) or hasattr(handler, "__wrapped__"):
        return False
    # One that says what it returns is believed. A lambda most likely calls what is async, and so
    # does what takes any arguments, as it stands for another function.
    if any(each.kind is each.VAR_POSITIONAL for each in signature.parameters.values()):
        return False
    returned: object = signature.return_annotation
    nothing = returned in (None, "None", inspect.Signature.empty)
    return nothing and handler.__name__ != "<lambda>"
