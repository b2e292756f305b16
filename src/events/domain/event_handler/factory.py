"""`DomainEventHandlerFactory`, the port from which a dispatcher gets its handlers.

`SimpleDomainEventHandlerFactory` needs no container; `events.domain.implementation` has a factory
for dishka.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol, cast

from events.domain.event import DomainEvent
from events.domain.event_handler.handler import DomainEventHandler, DomainEventHandlerRegistry
from events.errors import HandlerNotBuiltError


class DomainEventHandlerFactory(Protocol):
    """Make the handlers of events, for one unit of work.

    A dispatcher calls `create` once for each type of event, and keeps the handlers. A handler class
    that handles two types of events should be the same instance in both results, so a factory
    keeps the handlers that it made until the unit of work ends.
    """

    async def create(self, event_type: type[DomainEvent], /) -> Sequence[DomainEventHandler[Any]]:
        """Return the handlers of an event type, in the order in which they run; it may be empty.

        Raises:
            HandlerNotBuiltError: a handler cannot be made; the text names the cure.
        """
        ...


class SimpleDomainEventHandlerFactory:
    """Make handlers with plain callables, without a container: for tests and small programs.

        SimpleDomainEventHandlerFactory({ShipOrder: lambda: ShipOrder(session)})

    Each dispatcher gets one handler of each class, for all its events. Direct calls of `create`
    share one as well.

    Args:
        makers: for each handler class, a callable without arguments. A class without one is
            called without arguments itself. Errors of a maker are raised unchanged.
        registry: the handlers of each event; by default all handlers that were defined.
    """

    def __init__(
        self,
        makers: Mapping[type[Any], Callable[[], DomainEventHandler[Any]]] | None = None,
        registry: DomainEventHandlerRegistry | None = None,
    ) -> None:
        self._makers: Mapping[type, Callable[[], Any]] = dict(makers or {})
        self._registry = checked_registry(registry)
        self._made: dict[type, DomainEventHandler[Any]] = {}  # without a dispatcher

    async def create(self, event_type: type[DomainEvent]) -> Sequence[DomainEventHandler[Any]]:
        """Return the handlers of an event type, made by their makers or by calling their classes.

        Raises:
            HandlerNotBuiltError: a class needs arguments and has no maker, or its maker does not
                return a handler.
        """
        return self._make_all(event_type, self._made)

    def _make_all(
        self, event_type: type[DomainEvent], made: dict[type, DomainEventHandler[Any]]
    ) -> list[DomainEventHandler[Any]]:
        handlers: list[DomainEventHandler[Any]] = []
        for handler_class in self._registry.get(event_type):
            handler = made.get(handler_class)
            if handler is None:
                handler = made[handler_class] = self._make(handler_class)
            handlers.append(handler)
        return handlers

    def _make(self, handler_class: type[Any]) -> DomainEventHandler[Any]:
        maker = self._makers.get(handler_class)
        if maker is not None:
            if not callable(maker):
                raise HandlerNotBuiltError(
                    handler_class, f"its maker is {maker!r}: pass a callable, as in `lambda: ...`"
                )
            handler: DomainEventHandler[Any] = maker()
            if isinstance(handler, type) or not hasattr(handler, "handle"):
                raise _not_made(handler_class, handler)
            return handler
        try:
            built: DomainEventHandler[Any] = handler_class()
        except TypeError as error:
            name = handler_class.__qualname__
            raise HandlerNotBuiltError(
                handler_class,
                f"{error}. Pass a maker: "
                f"SimpleDomainEventHandlerFactory({{{name}: lambda: {name}(...)}})",
            ) from error
        return built


def make_at_once(
    factory: DomainEventHandlerFactory,
    event_type: type[DomainEvent],
    made: dict[type, Any],
) -> list[DomainEventHandler[Any]] | None:
    """Make handlers without a coroutine, if the factory is the simple one; else return None.

    `made` keeps them by class for one unit of work. Units of work that share a factory do not
    share handlers, which may hold a session.
    """
    if type(factory).create is not SimpleDomainEventHandlerFactory.create:
        return None
    simple = cast("SimpleDomainEventHandlerFactory", factory)
    return simple._make_all(event_type, made)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def _not_made(handler_class: type, given: object) -> HandlerNotBuiltError:
    if not isinstance(given, Coroutine):
        return HandlerNotBuiltError(
            handler_class, f"its maker returned {given!r}: return a handler"
        )
    given.close()
    return HandlerNotBuiltError(
        handler_class,
        "its maker is async: await what it needs beforehand, or write a factory with "
        "`async def create(self, event_type)`",
    )


def checked_registry(given: DomainEventHandlerRegistry | None) -> DomainEventHandlerRegistry:
    """Return the registry, or for None the default one; raise for anything else."""
    if given is None:
        return DomainEventHandler.registry
    registry: object = given
    if isinstance(registry, DomainEventHandlerRegistry):
        return given
    if isinstance(registry, Mapping):
        cure = "write DomainEventHandlerRegistry(mapping)"
    elif isinstance(registry, type) or not hasattr(registry, "get"):
        cure = "for a list of handlers, write DomainEventHandlerRegistry.of(handlers)"
    else:
        return given
    raise TypeError(f"registry must be a DomainEventHandlerRegistry, not {registry!r}: {cure}")
