"""`DomainEventHandlerFactory`, the port by which a dispatcher gets its handlers.

`SimpleDomainEventHandlerFactory` needs no container; `events.domain.implementation` has one that
asks dishka.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar, cast

from events.domain.event_handler.handler import DomainEventHandler
from events.errors import HandlerNotBuiltError

__all__ = ["DomainEventHandlerFactory", "SimpleDomainEventHandlerFactory"]

H = TypeVar("H", bound=DomainEventHandler[Any])


class DomainEventHandlerFactory(Protocol):
    """Make handlers for one dispatcher, that is for one unit of work.

    A dispatcher asks once for each handler class, when the first event for it is handled, and
    keeps what it got.
    """

    async def create(self, handler_class: type[H], /) -> H:
        """Make a handler, with what belongs to the unit of work, such as its session.

        Raises:
            HandlerNotBuiltError: it is not known how; the text says what to do.
        """
        ...


class SimpleDomainEventHandlerFactory:
    """Make handlers by plain callables, without a container: for tests and small programs.

        SimpleDomainEventHandlerFactory({ShipOrder: lambda: ShipOrder(session)})

    Args:
        makers: a callable without arguments by handler class. A class that is not in it is
            called without arguments itself. What a maker raises is raised as it is.
    """

    def __init__(
        self,
        makers: Mapping[type[Any], Callable[[], DomainEventHandler[Any]]] | None = None,
    ) -> None:
        self._makers: Mapping[type, Callable[[], Any]] = dict(makers or {})

    async def create(self, handler_class: type[H], /) -> H:
        """Make a handler by its maker, or by calling its class.

        Raises:
            HandlerNotBuiltError: the class has no maker and needs arguments, or its maker is none.
        """
        maker = self._makers.get(handler_class)
        if maker is not None:
            if not callable(maker):
                raise HandlerNotBuiltError(
                    handler_class, f"its maker is {maker!r}: give a callable, as in `lambda: ...`"
                )
            made: object = maker()
            if isinstance(made, Coroutine):
                made.close()
                raise HandlerNotBuiltError(
                    handler_class,
                    "its maker is async: await what it needs beforehand, or write a factory with "
                    "`async def create(self, handler_class)`",
                )
            return cast("H", made)
        try:
            return handler_class()
        except TypeError as error:
            name = handler_class.__qualname__
            raise HandlerNotBuiltError(
                handler_class,
                f"{error}. Say how to make it: "
                f"SimpleDomainEventHandlerFactory({{{name}: lambda: {name}(...)}})",
            ) from error
