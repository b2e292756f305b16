"""Checks of handler functions at registration, as far as their signatures show."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from events._annotations import signature_of
from events.integration.event import IntegrationEvent


def why_not_a_handler(handler: object) -> str | None:
    """Return why this cannot handle any event, or None if no reason is known.

    A wrong handler would fail on each attempt of each event, so it is checked at registration, as
    far as that is possible without a call.
    """
    if not callable(handler):
        return "it cannot be called: pass a function, or a method such as `instance.handle`"
    if isinstance(handler, type) and not hasattr(handler, "__await__"):
        return (
            "it is a class: pass a method of an instance, or, for dishka to make the instance, "
            f"`DishkaHandler({handler.__name__})`"
        )
    return why_not_awaited(handler, "the event", object())


def takes_another_than(handler: Callable[..., object], event: type[IntegrationEvent]) -> str | None:
    """Return the event that a handler's annotation names, if it is another one.

    Type checkers cannot see that in a mapping of handlers, whose values have one type. A handler
    that calls another function, such as `DishkaHandler`, has that function as `__delegate__`.
    """
    given: Any = getattr(handler, "__delegate__", handler)
    function = _innermost(given)
    if hasattr(function, "__wrapped__"):
        return None  # the annotations are those of what is inside, and a decorator may convert
    # The annotations of an instance would be those of its class: of attributes, not of parameters.
    if not inspect.isroutine(function):
        function = function.__call__
    try:
        hints = get_type_hints(function)
        hint = hints.get(next(iter(signature_of(given).parameters)))
    except Exception:  # noqa: BLE001 - an annotation may name what only a type checker knows
        return None
    classes = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    others: list[str] = []
    for each in classes:
        if not (isinstance(each, type) and issubclass(each, IntegrationEvent)):
            return None
        # Same name: a string annotation may find another class, or the class was defined again.
        if issubclass(event, each) or event.__name__ == each.__name__:
            return None
        others.append(each.__qualname__)
    return " or ".join(others)


def _innermost(handler: Any) -> Any:
    return handler.func if isinstance(handler, partial) else handler


def why_not_awaited(function: Callable[..., object], takes: str, *arguments: object) -> str | None:
    """Return why a call with so many arguments cannot return an awaitable."""
    try:
        signature = signature_of(function)
    except (TypeError, ValueError):  # of a callable in C
        return None
    try:
        signature.bind(*arguments)
    except TypeError as error:
        return f"it must take {takes} and no other argument: {error}"
    if _returns_nothing_to_await(function, signature):
        return "it is not async: write it as `async def`"
    return None


def _returns_nothing_to_await(handler: object, signature: inspect.Signature) -> bool:
    if not (inspect.isfunction(handler) or inspect.ismethod(handler)):
        return False
    if inspect.iscoroutinefunction(handler) or hasattr(handler, "__wrapped__"):
        return False
    # A return annotation is trusted. A lambda most likely calls something async, and so does a
    # function that takes any arguments, because it wraps another function.
    if any(each.kind is each.VAR_POSITIONAL for each in signature.parameters.values()):
        return False
    returned: object = signature.return_annotation
    nothing = returned in (None, "None", inspect.Signature.empty)
    return nothing and handler.__name__ != "<lambda>"
