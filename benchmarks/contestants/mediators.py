"""Peers at domain events: each as its own documentation has it, with the same handlers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import bazario.asyncio
import blinker as blinker_library
import bubus as bubus_library
import cqrs
import cqrs.events
from bazario import Notification
from bazario.asyncio.resolvers.dishka import DishkaResolver
from cqrs.bootstrap import events as cqrs_bootstrap
from cqrs.container.dishka import DishkaCQRSContainer
from cqrs.container.scope import ScopeStrategy
from diator.events import DomainEvent as DiatorEvent
from diator.events import EventEmitter, EventHandler, EventMap
from dishka import AsyncContainer, Provider, Scope, make_async_container
from lato import Application, Event
from pyventus.events import AsyncIOEventEmitter, EventLinker

from benchmarks.contestants.domain import EVENT, HANDLERS, Contestant, Publish, Session

FIELDS: dict[str, Any] = {"order": EVENT.order, "customer": EVENT.customer, "cents": EVENT.cents}


@dataclass(frozen=True)
class _Fields:
    order: str
    customer: str
    cents: int


def _handlers(count: int, *bases: Any) -> list[type[Any]]:
    """Make handler classes of a library, each with what ours do."""

    class Handler(*bases):  # type: ignore[misc]
        def __init__(self, session: Session) -> None:
            self.session = session

        async def handle(self, event: Any) -> None:
            self.session.writes += 1

    return [type(f"Handler{number}", (Handler,), {}) for number in range(count)]


@asynccontextmanager
async def _container(session: Session, handlers: list[type[Any]]) -> AsyncGenerator[AsyncContainer]:
    provider = Provider(scope=Scope.REQUEST)
    provider.provide(lambda: session, provides=Session)
    for each in handlers:
        provider.provide(each)
    container = make_async_container(provider)
    yield container
    await container.close()


@asynccontextmanager
async def blinker(handlers: int, session: Session) -> AsyncGenerator[Publish]:
    placed = blinker_library.Signal()
    made = [cls(session) for cls in HANDLERS[:handlers]]
    for handler in made:
        placed.connect(handler.handle)

    async def publish(times: int) -> None:
        for _ in range(times):
            await placed.send_async(EVENT)

    yield publish


@dataclass(frozen=True)
class BazarioEvent(_Fields, Notification):
    pass


@asynccontextmanager
async def bazario_open_scope(handlers: int, session: Session) -> AsyncGenerator[Publish]:
    registry = bazario.asyncio.Registry()
    classes = _handlers(handlers, bazario.asyncio.NotificationHandler[BazarioEvent])
    registry.add_notification_handlers(BazarioEvent, *classes)
    event = BazarioEvent(**FIELDS)
    async with _container(session, classes) as container, container() as request:
        dispatcher = bazario.asyncio.Dispatcher(DishkaResolver(request), registry)

        async def publish(times: int) -> None:
            for _ in range(times):
                await dispatcher.publish(event)

        yield publish


class CqrsEvent(cqrs.DomainEvent):
    order: str
    customer: str
    cents: int


def _cqrs(
    container: AsyncContainer, classes: list[type[Any]], scope: ScopeStrategy = ScopeStrategy.NONE
) -> cqrs.EventMediator:
    def bind(events: cqrs.events.EventMap) -> None:
        for each in classes:
            events.bind(CqrsEvent, each)

    return cqrs_bootstrap.setup_mediator(DishkaCQRSContainer.of(container), [], bind, scope)


@asynccontextmanager
async def cqrs_open_scope(handlers: int, session: Session) -> AsyncGenerator[Publish]:
    classes = _handlers(handlers, cqrs.EventHandler[CqrsEvent])
    event = CqrsEvent(**FIELDS)
    async with _container(session, classes) as container, container() as request:
        mediator = _cqrs(request, classes)

        async def publish(times: int) -> None:
            for _ in range(times):
                await mediator.send(event)

        yield publish


@asynccontextmanager
async def cqrs_scopes(handlers: int, session: Session) -> AsyncGenerator[Publish]:
    classes = _handlers(handlers, cqrs.EventHandler[CqrsEvent])
    event = CqrsEvent(**FIELDS)
    async with _container(session, classes) as container:
        mediator = _cqrs(container, classes, ScopeStrategy.SEND)

        async def publish(times: int) -> None:
            for _ in range(times):
                await mediator.send(event)

        yield publish


@dataclass(frozen=True)
class DiatorOrderPlaced(_Fields, DiatorEvent):
    pass


@asynccontextmanager
async def diator(handlers: int, session: Session) -> AsyncGenerator[Publish]:
    """With the smallest container that serves it, not the one of the library `di`."""

    class Ready:
        async def resolve(self, wanted: type[Any]) -> Any:
            return made[wanted]

    classes = _handlers(handlers, EventHandler[DiatorOrderPlaced])
    made = {each: each(session) for each in classes}
    events = EventMap()
    for each in classes:
        events.bind(DiatorOrderPlaced, each)
    emitter = EventEmitter(event_map=events, container=Ready(), message_broker=None)
    event = DiatorOrderPlaced(**FIELDS)

    async def publish(times: int) -> None:
        for _ in range(times):
            await emitter.emit(event)

    yield publish


class LatoEvent(Event):
    order: str
    customer: str
    cents: int


@asynccontextmanager
async def lato(handlers: int, session: Session) -> AsyncGenerator[Publish]:
    application = Application("bench", session=session)
    for number in range(handlers):

        async def handle(event: LatoEvent, session: Session) -> None:  # noqa: ARG001
            session.writes += 1

        handle.__name__ = f"handle{number}"
        application.handler(LatoEvent)(handle)
    event = LatoEvent(**FIELDS)

    async def publish(times: int) -> None:
        for _ in range(times):
            await application.publish_async(event)

    yield publish


@asynccontextmanager
async def pyventus(handlers: int, session: Session) -> AsyncGenerator[Publish]:
    class Linker(EventLinker):
        pass

    placed: type[Any] = dataclass(frozen=True)(type("PyventusEvent", (_Fields,), {}))
    for _ in range(handlers):

        async def handle(event: Any) -> None:  # noqa: ARG001
            session.writes += 1

        Linker.subscribe(placed, event_callback=handle)
    emitter = AsyncIOEventEmitter(event_linker=Linker)
    event = placed(**FIELDS)

    async def publish(times: int) -> None:
        # It has nothing to await: the handlers are done some turns of the loop later.
        for _ in range(times):
            wanted = session.writes + handlers
            emitter.emit(event)
            while session.writes < wanted:
                await asyncio.sleep(0)

    yield publish


class BubusEvent(bubus_library.BaseEvent[None]):
    order: str
    customer: str
    cents: int


@asynccontextmanager
async def bubus(handlers: int, session: Session) -> AsyncGenerator[Publish]:
    bus = bubus_library.EventBus(max_history_size=10)
    for number in range(handlers):

        async def handle(event: BubusEvent) -> None:  # noqa: ARG001
            session.writes += 1

        handle.__name__ = f"handle{number}"
        bus.on(BubusEvent, handle)

    async def publish(times: int) -> None:
        # It keeps an event's results in the event, so each has to be made.
        for _ in range(times):
            await bus.dispatch(BubusEvent(**FIELDS))

    yield publish
    await bus.stop(timeout=1, clear=True)


CONTESTANTS: dict[str, Contestant] = {
    "blinker send_async": blinker,
    "bazario, dishka, open scope": bazario_open_scope,
    "python-cqrs, dishka, open scope": cqrs_open_scope,
    "python-cqrs, dishka, a scope per event": cqrs_scopes,
    "diator": diator,
    "lato": lato,
    "pyventus": pyventus,
    "bubus": bubus,
}
