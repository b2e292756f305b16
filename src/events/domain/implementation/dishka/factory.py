"""`DishkaDomainEventHandlerFactory`: handlers from the container of the unit of work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dishka import DEFAULT_COMPONENT, AsyncContainer, Provider, Scope
from dishka.exceptions import NoFactoryError

from events.domain.event import DomainEvent
from events.domain.event_handler import DomainEventHandler, DomainEventHandlerRegistry
from events.domain.event_handler.factory import checked_registry
from events.errors import HandlerNotBuiltError


class DishkaDomainEventHandlerFactory:
    """Get handlers from a REQUEST container, one of each class per scope, so they share a session.

    If the container provides a handler, it comes from the container. Any other handler is made
    here, with the arguments of its `__init__` from the container.

    Args:
        container: the REQUEST container; its owner closes it.
        registry: the handlers of each event; by default all handlers that were defined.
        recipes: how other scopes of the application made their handlers. Without it, each scope
            looks everything up again.
    """

    def __init__(
        self,
        container: AsyncContainer,
        registry: DomainEventHandlerRegistry | None = None,
        recipes: HandlerRecipes | None = None,
    ) -> None:
        given: object = container
        if isinstance(given, DomainEventHandlerRegistry):
            raise TypeError(
                f"the container comes first, not {given!r}: "
                f"write DishkaDomainEventHandlerFactory(container, registry)"
            )
        self._container = container
        self._registry = checked_registry(registry)
        self._recipes = HandlerRecipes() if recipes is None else recipes
        self._made: dict[type, DomainEventHandler[Any]] = {}

    async def create(self, event_type: type[DomainEvent]) -> Sequence[DomainEventHandler[Any]]:
        """Return the handlers of an event type, the same instances each time.

        Errors of a provider, for example an unreachable database, are raised unchanged.

        Raises:
            HandlerNotBuiltError: the container does not provide what a handler needs.
        """
        made = self._made
        handlers: list[DomainEventHandler[Any]] = []
        for handler_class in self._registry.get(event_type):
            if handler_class not in made:
                recipe = self._recipes.get(handler_class)
                try:
                    made[handler_class] = (
                        await self._ask(handler_class)
                        if recipe is None
                        else await recipe.follow(self._container.get)
                    )
                except NoFactoryError as error:
                    raise _not_built(handler_class, error) from error
            handlers.append(made[handler_class])
        return handlers

    async def _ask(self, handler_class: type[Any]) -> Any:
        """Get a handler from the container, or find out how to make it."""
        try:
            return await self._container.get(handler_class)
        except NoFactoryError as error:
            if error.requested.type_hint is not handler_class:
                raise
        recipe = self._recipes[handler_class] = _Recipe.of(handler_class)
        return await recipe.follow(self._container.get)


@dataclass(frozen=True, slots=True)
class _Need:
    type_hint: Any
    component: str


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How to make a handler that the container does not provide: the arguments of `__init__`."""

    make: Callable[..., Any]
    args: Sequence[_Need]
    kwargs: Mapping[str, _Need]

    @classmethod
    def of(cls, handler_class: type[DomainEventHandler[Any]]) -> _Recipe:
        # The provider is never part of a container: it reads the parameters as dishka does.
        reader = Provider(scope=Scope.REQUEST)
        try:
            reader.provide(handler_class)
        except Exception as error:
            raise HandlerNotBuiltError(
                handler_class,
                f"{str(error).strip()}\nCorrect its `__init__`, or provide the handler itself",
            ) from error
        read = reader.factories[0]
        return cls(
            handler_class,
            [_Need(key.type_hint, key.component or DEFAULT_COMPONENT) for key in read.dependencies],
            {
                name: _Need(key.type_hint, key.component or DEFAULT_COMPONENT)
                for name, key in read.kw_dependencies.items()
            },
        )

    async def follow(self, get: Callable[..., Awaitable[Any]]) -> Any:
        args: list[Any] = []
        for need in self.args:  # before Python 3.12 a comprehension that awaits costs a coroutine
            args.append(await get(need.type_hint, need.component))  # noqa: PERF401
        if not self.kwargs:
            return self.make(*args)
        kwargs = {
            name: await get(need.type_hint, need.component) for name, need in self.kwargs.items()
        }
        return self.make(*args, **kwargs)


class HandlerRecipes(dict[type, _Recipe]):
    """How to make each handler that a container does not provide, for all scopes."""


def _not_built(handler_class: type, error: Exception) -> HandlerNotBuiltError:
    return HandlerNotBuiltError(
        handler_class,
        f"{str(error).strip()}\n"
        f"Provide the missing dependency in scope APP or REQUEST, or the handler itself",
    )
