"""What is wrong with a function before any event comes to it, as far as it can be known."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from events._annotations import signature_of
from events.integration.event import IntegrationEvent


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

    No type checker sees it in a mapping of handlers, whose values are all of one type. A handler
    that stands for a function, as `DishkaHandler` does, has it as `__delegate__`.
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
        # Of one name: a text finds another class than a function's own, or it was made anew.
        if issubclass(event, each) or event.__name__ == each.__name__:
            return None
        others.append(each.__qualname__)
    return " or ".join(others)


def _innermost(handler: Any) -> Any:
    return handler.func if isinstance(handler, partial) else handler


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
