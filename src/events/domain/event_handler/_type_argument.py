"""Which events a handler class handles: the `E` of its `DomainEventHandler[E]`, resolved.

The argument may be written on the class itself or any number of generic bases away:

    class Audited(DomainEventHandler[E], Generic[E]): ...
    class AuditOrders(Audited[OrderPaid | OrderCancelled]): ...   # -> OrderPaid, OrderCancelled
"""

from __future__ import annotations

import sys
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from events.domain.event import DomainEvent
from events.errors import HandlerDefinitionError


def event_classes(handler: type, root: type) -> tuple[type[DomainEvent], ...] | None:
    """Return the events of a handler class; `root` is `DomainEventHandler`.

    Returns None if the argument is a type variable, so the handler is a generic base.

    Raises:
        HandlerDefinitionError: the argument is missing, not defined yet, or not an event.
    """
    argument = _argument(handler, root)
    if argument is None:
        raise HandlerDefinitionError(
            handler,
            "does not name the events that it handles: add a type argument to its base class, "
            "as in `DomainEventHandler[OrderPaid]`, or `[DomainEvent]` for all events",
        )
    members = list(_union_members(argument))
    if any(isinstance(member, TypeVar) for member in members):
        return None
    for member in members:
        if not (isinstance(member, type) and issubclass(member, DomainEvent)):
            raise HandlerDefinitionError(handler, _why_not_an_event(member))
    return tuple(members)


def _argument(handler: type, root: type) -> Any:
    """Return what `handler` passes to the root; nearer and earlier bases take precedence."""
    bases: tuple[Any, ...] = vars(handler).get("__orig_bases__", handler.__bases__)
    for base in sorted(bases, key=lambda base: _origin(base) is not root):
        origin = _origin(base)
        if origin is root:
            return _resolved(handler, next(iter(get_args(base)), None))
        if not (isinstance(origin, type) and issubclass(origin, root)):
            continue
        argument = _argument(origin, root)
        variables: tuple[Any, ...] = getattr(origin, "__parameters__", ())
        given: dict[Any, Any] = dict(zip(variables, get_args(base), strict=False))
        open_variables = getattr(argument, "__parameters__", ())
        if isinstance(argument, TypeVar):
            argument = given.get(argument)
        elif open_variables:
            argument = argument[tuple(given.get(each, each) for each in open_variables)]
        return _resolved(handler, argument)
    return None


def _origin(base: Any) -> Any:
    return get_origin(base) or base


def _resolved(handler: type, argument: Any) -> Any:
    """Evaluate strings in the module of the class, as far as that module has been executed."""
    if argument is None:
        return None

    def holder() -> None: ...

    holder.__annotations__ = {"event": argument}
    module = sys.modules.get(handler.__module__)
    try:
        return get_type_hints(holder, vars(module) if module else {})["event"]
    except NameError as error:
        raise HandlerDefinitionError(
            handler,
            f"its event is a string whose name is not defined here ({error}): define or import "
            f"the event above the handler, at module level and outside of `if TYPE_CHECKING`",
        ) from error


def _union_members(argument: Any) -> Any:
    if hasattr(argument, "__value__"):  # `type Paid = CardPaid | CashPaid`
        argument = argument.__value__
    if get_origin(argument) in {Union, UnionType}:
        for member in get_args(argument):
            yield from _union_members(member)
    else:
        yield argument


def _why_not_an_event(given: Any) -> str:
    origin = get_origin(given)
    if isinstance(origin, type) and issubclass(origin, DomainEvent):
        return (
            f"handles {given!r}, but an event has no type arguments at runtime: "
            f"define a subclass, as in `class Mine({origin.__qualname__}[...])`"
        )
    name = given.__qualname__ if isinstance(given, type) else repr(given)
    return (
        f"handles {name}, which is not a DomainEvent: derive it from DomainEvent, or name an "
        f"event class; `DomainEventHandler[DomainEvent]` receives every event"
    )
