"""`DomainEventImplementationProvider`: all that a container needs to dispatch domain events."""

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

__all__ = ["DomainEventImplementationProvider"]


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all units of work of one application share."""

    registry: DomainEventHandlerRegistry
    recipes: HandlerRecipes = field(default_factory=HandlerRecipes)


# The same in a REQUEST, which has it without asking the container above.
_SharedHere = NewType("_SharedHere", _Shared)


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
    `make_async_container(..., context={DomainEventHandlerRegistry: mine})`. Your own provider,
    listed after this one, takes the place of anything here, as always with dishka; for the
    registry in scope APP, as it is found once for each application.

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
        self._component = self.component
        self._last: tuple[AsyncContainer, _SharedHere] | None = None

    def to_component(self, component: Component) -> ProviderWrapper:
        """Put it into a component: a provider is in one, as all that it makes is."""
        self._component = component
        return super().to_component(component)

    @provide(scope=Scope.APP)
    def registry(self) -> DomainEventHandlerRegistry:
        """Provide the registry of all handlers, or of those given; the context overrides it."""
        return self._registry

    @provide(scope=Scope.APP)
    def shared(self, registry: DomainEventHandlerRegistry) -> _Shared:
        """Provide what the units of work of this application share."""
        return _Shared(registry)

    @provide
    async def shared_here(self, container: AsyncContainer) -> _SharedHere:
        """Provide the same, asked for once: dishka's way up costs more than the scope itself."""
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
        """Provide the factory that asks this very scope."""
        return DishkaDomainEventHandlerFactory(container, shared.registry, shared.recipes)

    # Not cached, so that it costs nothing: the factory itself is.
    factory_port = alias(
        DishkaDomainEventHandlerFactory, provides=DomainEventHandlerFactory, cache=False
    )

    @provide
    def dispatcher(self, factory: DomainEventHandlerFactory) -> DomainEventDispatcher:
        """Provide the dispatcher of this scope's unit of work."""
        return DomainEventDispatcher(factory)
