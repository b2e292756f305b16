"""`DomainEventImplementationProvider`: all that a container needs to dispatch domain events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dishka import (
    AsyncContainer,
    Provider,
    Scope,
    alias,
    provide,  # pyright: ignore[reportUnknownVariableType]
)

from events.domain.dispatcher import DomainEventDispatcher
from events.domain.event_handler import (
    DomainEventHandler,
    DomainEventHandlerFactory,
    DomainEventHandlerRegistry,
)
from events.domain.event_handler.handler import listed
from events.domain.implementation.dishka.factory import (
    DishkaDomainEventHandlerFactory,
    HandlerRecipes,
)

__all__ = ["DomainEventImplementationProvider"]


class DomainEventImplementationProvider(Provider):
    """Provide the dispatcher and the handler factory (REQUEST), and the registry (APP).

        container = make_async_container(DomainEventImplementationProvider(), Sessions())

    With `handlers`, these are all there are, whatever else was imported, and the container
    provides them: one that cannot be built is found when the container is made. To make one of
    them yourself, list your provider after this one.

        DomainEventImplementationProvider([AnnounceUser, CountUsers])

    Without, all handlers that were defined take part, so mind that their modules are imported.
    They then need no provider: what their `__init__` asks for comes from the REQUEST container
    in which the dispatcher was made. Those that you do provide come from your provider, be it
    listed before or after this one; in a scope of a REQUEST or longer.

    The registry is `DomainEventHandler.registry`, unless the container's context has another:
    `make_async_container(..., context={DomainEventHandlerRegistry: mine})`. Of everything else
    here your own provider, listed after this one, takes the place, as always with dishka.

    One that needs something unknown raises `HandlerNotBuiltError` at its first event.
    """

    scope = Scope.REQUEST

    def __init__(self, handlers: Iterable[type[DomainEventHandler[Any]]] | None = None) -> None:
        super().__init__()
        self._registry = DomainEventHandler.registry
        if handlers is not None:
            handlers = list(dict.fromkeys(listed(handlers)))
            self._registry = DomainEventHandlerRegistry.of(handlers)
            for handler in handlers:
                self.provide(handler)

    @provide(scope=Scope.APP)
    def registry(self) -> DomainEventHandlerRegistry:
        """Provide the registry of all handlers, or of those given; the context overrides it."""
        return self._registry

    @provide(scope=Scope.APP)
    def recipes(self) -> HandlerRecipes:
        """Provide what the factories of all scopes share."""
        return HandlerRecipes()

    @provide
    def factory(
        self, container: AsyncContainer, recipes: HandlerRecipes
    ) -> DishkaDomainEventHandlerFactory:
        """Provide the factory that asks this very scope."""
        return DishkaDomainEventHandlerFactory(container, recipes)

    factory_port = alias(DishkaDomainEventHandlerFactory, provides=DomainEventHandlerFactory)

    @provide
    def dispatcher(
        self, factory: DomainEventHandlerFactory, registry: DomainEventHandlerRegistry
    ) -> DomainEventDispatcher:
        """Provide the dispatcher of this scope's unit of work."""
        return DomainEventDispatcher(factory, registry)
