"""Handlers of integration events from a dishka container, in a REQUEST scope of their own.

    consumer = EventHandlerConsumer("emails", {UserRegisteredV1: DishkaHandler(SendWelcomeEmail)})
    registration = IntegrationEventBusRegistration(consumer, USERS, consumer.handlers.keys())
    container = make_async_container(
        IntegrationEventImplementationProvider(InMemoryIntegrationEventBus, [registration]),
        AppProvider(),
    )
    bus = await container.get(IntegrationEventBus)  # makes it and starts it
    ...
    await container.close()                         # stops it

A new scope is opened for each attempt and closed when it ends, so an attempt that failed leaves
no session behind for the next. It is a middleware: what stands after it in a bus's `middlewares`
runs inside the scope and can ask `current_scope()` for what the handler will get.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextvars import ContextVar
from functools import partial
from inspect import getattr_static
from itertools import chain
from typing import Any, Generic, Protocol, TypeVar

from events.errors import InvalidTopologyError, MissingExtraError
from events.integration.bus import IntegrationEventBus
from events.integration.event import IntegrationEvent
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.message import Delivery, current_delivery
from events.integration.outbox import Outbox
from events.integration.pipeline import Handle, IncomingEvent, Middleware, Serving
from events.integration.pipeline.middleware import CheckedHandler
from events.integration.topology import EventHandlerConsumer, IntegrationEventBusRegistration
from events.integration.topology.checks import why_not_awaited

try:
    from dishka import (
        DEFAULT_COMPONENT,
        AnyOf,
        AsyncContainer,
        Component,
        Provider,
        Scope,
        from_context,
        provide,  # pyright: ignore[reportUnknownVariableType] - dishka's own
    )
    from dishka.provider import ProviderWrapper
except ImportError as error:
    raise MissingExtraError(__name__, "dishka") from error

__all__ = [
    "DishkaHandler",
    "DishkaScope",
    "IntegrationEventHandler",
    "IntegrationEventImplementationProvider",
    "OutboxProvider",
    "current_scope",
    "from_scope",
]

T = TypeVar("T")
E_contra = TypeVar("E_contra", bound="IntegrationEvent", contravariant=True)

_CURE = (
    "create the bus with middlewares=[DishkaScope(container)], "
    "or have IntegrationEventImplementationProvider make it"
)

_scope: ContextVar[tuple[AsyncContainer, Component] | None] = ContextVar(
    "events.dishka_scope", default=None
)


class IntegrationEventHandler(Protocol[E_contra]):
    """A class whose instances handle one event each."""

    async def handle(self, event: E_contra) -> None:
        """Handle the event; raising has it retried."""
        ...


class DishkaScope:
    """A middleware that opens a REQUEST scope of the container around each attempt.

    The scope holds the `Delivery`. `component` is where `DishkaHandler` finds its handlers.
    Closing the scope is part of the attempt: an error there fails the attempt.
    """

    def __init__(
        self, container: AsyncContainer, *, component: Component = DEFAULT_COMPONENT
    ) -> None:
        self._container = container
        self._component = component

    async def __call__(self, incoming: IncomingEvent, call_next: Handle, /) -> None:
        """Run the attempt inside a scope."""
        async with self._container(context={Delivery: incoming.delivery}) as scope:
            token = _scope.set((scope, self._component))
            try:
                await call_next(incoming)
            finally:
                _scope.reset(token)


def current_scope() -> AsyncContainer:
    """Return the REQUEST scope of the event that is being handled.

    Raises `InvalidTopologyError` outside of one.
    """
    return _scope_and_component()[0]


def _scope_and_component() -> tuple[AsyncContainer, Component]:
    scope = _scope.get()
    if scope is None:
        raise InvalidTopologyError("no dishka scope is open here", _CURE)
    return scope


class _FromScope(Generic[T]):
    def __init__(self, wanted: type[T], component: Component | None) -> None:
        self._wanted = wanted
        self._component = component

    async def __call__(self) -> T:
        scope, component = _scope_and_component()
        if self._component is not None:
            component = self._component
        return await scope.get(self._wanted, component)

    def check(self, outer: Sequence[Middleware]) -> None:
        if not any(isinstance(each, DishkaScope) for each in outer):
            raise InvalidTopologyError(
                repr(self),
                "no DishkaScope precedes it in the bus's middlewares, so there will be no "
                "scope to take it from: middlewares=[DishkaScope(container), ...]",
            )

    def __repr__(self) -> str:
        return f"from_scope({getattr(self._wanted, '__qualname__', self._wanted)})"


def from_scope(
    wanted: type[T], *, component: Component | None = None
) -> Callable[[], Awaitable[T]]:
    """Return a function that gets this from the scope of the event that is being handled.

    For middlewares that share an object with the handler, as the inbox does its session:
    `SQLAlchemyInbox(from_scope(AsyncSession))`. The scope owns what it gave. It comes from the
    component that the handlers come from, unless another is named.
    """
    return _FromScope(wanted, component)


class DishkaHandler(CheckedHandler, Generic[E_contra]):
    """A handler for an `EventHandlerConsumer` that resolves a class and calls its `handle`.

    A bus without a `DishkaScope` refuses it at `startup`, or at a later `register`.
    """

    def __init__(self, handler: type[IntegrationEventHandler[E_contra]]) -> None:
        given: object = handler
        if not isinstance(given, type):
            raise TypeError(
                f"DishkaHandler needs the class of a handler, not {given!r}: "
                f"the container makes the instance"
            )
        if not callable(getattr(given, "handle", None)):
            raise TypeError(
                f"{given.__qualname__} has no method `handle`: "
                f"write `async def handle(self, event: ...) -> None`"
            )
        bound = isinstance(getattr_static(given, "handle"), staticmethod | classmethod)
        itself = () if bound else (object(),)
        why_not = why_not_awaited(handler.handle, "the event", *itself, object())
        # What a registration reads to see which event it takes.
        self.__delegate__ = partial(handler.handle, *itself)
        if why_not is not None:
            raise TypeError(f"{given.__qualname__}.handle cannot handle an event: {why_not}")
        self.handler = handler

    def check(self, serving: Serving) -> None:
        """Refuse a bus that opens no scope, on which each event would become a dead letter."""
        if not any(isinstance(each, DishkaScope) for each in serving.middlewares):
            raise InvalidTopologyError(
                f"registration of {serving.registration}",
                f"no DishkaScope is among the bus's middlewares, so {self!r} would have no scope "
                f"to get its handler from: {_CURE}",
            )

    async def __call__(self, event: E_contra) -> None:
        """Resolve the handler in the current scope, and call it."""
        scope, component = _scope_and_component()
        handler = await scope.get(self.handler, component)
        await handler.handle(event)

    def __repr__(self) -> str:
        return f"DishkaHandler({self.handler.__qualname__})"


class MakeBus(Protocol):
    """A bus class that needs no more arguments, or a function that gives it the others."""

    def __call__(
        self,
        registrations: Sequence[IntegrationEventBusRegistration],
        /,
        *,
        middlewares: Sequence[Middleware],
    ) -> TransportIntegrationEventBus: ...


class IntegrationEventImplementationProvider(Provider):
    """Provide the bus: the first request starts it, and closing the container stops it.

    It provides the bus as `IntegrationEventBus`, as `TransportIntegrationEventBus`, which has
    health and dead letters, and as the class `make` (APP); the `Delivery` (REQUEST, in a handler);
    and the handler classes of every `DishkaHandler` in the registrations (REQUEST), so making the
    container raises for a handler that cannot be built. To make a handler yourself, provide it in
    a provider after this one. With `to_component`, all of these, and the dependencies of the
    handlers, are in that component.

    Get the bus from the container when the application starts: otherwise its consumers do not run.
    """

    delivery = from_context(Delivery, scope=Scope.REQUEST)

    def __init__(
        self,
        make: MakeBus,
        registrations: Iterable[IntegrationEventBusRegistration] | None = None,
        *,
        middlewares: Sequence[Middleware] = (),
    ) -> None:
        super().__init__()
        given: object = make
        if not callable(given):
            raise TypeError(
                f"IntegrationEventImplementationProvider makes the bus itself, so it needs the "
                f"bus's class, or a function that takes registrations and middlewares=, "
                f"not {given!r}"
            )
        listed: object = registrations
        if isinstance(listed, IntegrationEventBusRegistration):
            raise TypeError(f"registration of {listed}: pass a list: [registration]")
        self._make = make
        self._registrations = list(registrations or ())
        self._middlewares = list(middlewares)
        self._component = self.component
        if isinstance(make, type) and issubclass(make, TransportIntegrationEventBus):
            self.alias(TransportIntegrationEventBus, provides=make)
        for handler in dict.fromkeys(_handlers(self._registrations)):
            self.provide(handler, scope=Scope.REQUEST)

    def to_component(self, component: Component) -> ProviderWrapper:
        """Put it into a component; its handlers and their dependencies come from there."""
        self._component = component
        # dishka leaves out of a component what comes from the context.
        self.context_vars.clear()
        self.provide(_delivery, scope=Scope.REQUEST)
        return super().to_component(component)

    @provide(scope=Scope.APP)
    async def bus(
        self, container: AsyncContainer
    ) -> AsyncIterator[AnyOf[IntegrationEventBus, TransportIntegrationEventBus]]:
        """Make the bus, start it, and stop it in the end."""
        middlewares = [
            DishkaScope(container, component=self._component),
            *self._middlewares,
        ]
        async with self._make(self._registrations, middlewares=middlewares) as bus:
            yield bus


class OutboxProvider(Provider):
    """Provide the outbox of each unit of work, as `Outbox` and as its own class (REQUEST).

        container = make_async_container(
            OutboxProvider(SQLAlchemyOutbox, AsyncSession, source="/shop"), Sessions()
        )

    Args:
        make: The class of the outbox, or a function that makes one of the session and the options.
        session: What the container provides in each REQUEST, as `AsyncSession` is.
        **options: More arguments for `make`.
    """

    def __init__(self, make: Callable[..., Outbox], session: type[Any], **options: Any) -> None:
        super().__init__(scope=Scope.REQUEST)

        def outbox(session: Any) -> Any:
            return make(session, **options)

        outbox.__annotations__ = {"session": session, "return": Outbox}
        self.provide(outbox, provides=AnyOf[make, Outbox] if isinstance(make, type) else Outbox)


def _delivery() -> Delivery:
    delivery = current_delivery()
    if delivery is None:
        raise InvalidTopologyError("no delivery is handled here", "ask for it in a handler")
    return delivery


def _handlers(registrations: Iterable[IntegrationEventBusRegistration]) -> Iterable[type]:
    for registration in registrations:
        if isinstance(registration.consumer, EventHandlerConsumer):
            for handler in chain.from_iterable(registration.consumer.handlers.values()):
                if isinstance(handler, DishkaHandler):
                    # isinstance cannot tell of which event it is
                    yield handler.handler  # pyright: ignore[reportUnknownMemberType]
