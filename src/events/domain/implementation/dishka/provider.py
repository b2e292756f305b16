"""`DomainEventImplementationProvider`: everything that dispatching needs from a container."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NewType

from dishka import (
    AsyncContainer,
    Component,
    Provider,
    Scope,
    alias,
    provide,  # pyright: ignore[reportUnknownVariableType]
)
from dishka.provider import ProviderWrapper

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


@dataclass(frozen=True, slots=True)
class _Shared:
    """Shared by all units of work of one application."""

    registry: DomainEventHandlerRegistry
    recipes: HandlerRecipes = field(default_factory=HandlerRecipes)


# The same in a REQUEST container, which then does not look into its parent.
_SharedHere = NewType("_SharedHere", _Shared)


class DomainEventImplementationProvider(Provider):
    """Provide the dispatcher and the handler factory (REQUEST), and the registry (APP).

        container = make_async_container(DomainEventImplementationProvider(), Sessions())

    With `handlers`, only these run, and the container provides them. `make_async_container` then
    raises if one of them cannot be built. To make one of them yourself, list your provider after
    this one.

        DomainEventImplementationProvider([AnnounceUser, CountUsers])

    Without `handlers`, all handlers that were defined run, so import their modules. They need no
    provider: the arguments of their `__init__` come from the REQUEST container of the dispatcher.
    If you provide a handler, in scope REQUEST or a longer one, it comes from your provider, listed
    before or after this one. A handler with an unknown dependency raises `HandlerNotBuiltError` at
    its first event.

    The registry is `DomainEventHandler.registry`, unless the container's context has another:
    `make_async_container(..., context={DomainEventHandlerRegistry: mine})`. As always in dishka, a
    provider of yours that is listed after this one overrides it. Override the registry in scope
    APP: each application looks it up once.
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
        self._component = self.component
        self._last: tuple[AsyncContainer, _SharedHere] | None = None

    def to_component(self, component: Component) -> ProviderWrapper:
        """Return the provider for a dishka component, and remember the component."""
        self._component = component
        return super().to_component(component)

    @provide(scope=Scope.APP)
    def registry(self) -> DomainEventHandlerRegistry:
        """Provide the registry of all handlers, or of the given ones; the context overrides it."""
        return self._registry

    @provide(scope=Scope.APP)
    def shared(self, registry: DomainEventHandlerRegistry) -> _Shared:
        """Provide what all units of work of this application share."""
        return _Shared(registry)

    @provide
    async def shared_here(self, container: AsyncContainer) -> _SharedHere:
        """Provide the same from a cache: dishka's lookup in a parent costs more than the scope."""
        application = container
        while application.scope is not Scope.APP and application.parent_container is not None:
            application = application.parent_container
        last = self._last
        if last is None or last[0] is not application:
            shared = await application.get(_Shared, self._component)
            last = self._last = application, _SharedHere(shared)
        return last[1]

    @provide
    def factory(
        self, container: AsyncContainer, shared: _SharedHere
    ) -> DishkaDomainEventHandlerFactory:
        """Provide the factory that uses this scope."""
        return DishkaDomainEventHandlerFactory(container, shared.registry, shared.recipes)

    # Not cached, so that it costs nothing: the factory itself is.
    factory_port = alias(
        DishkaDomainEventHandlerFactory, provides=DomainEventHandlerFactory, cache=False
    )

    @provide
    def dispatcher(self, factory: DomainEventHandlerFactory) -> DomainEventDispatcher:
        """Provide the dispatcher of this scope's unit of work."""
        return DomainEventDispatcher(factory)
