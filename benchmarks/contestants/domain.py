"""Ours at domain events, and the floor below everybody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from dishka import AsyncContainer, Provider, Scope, make_async_container

from events.domain import (
    DomainEvent,
    DomainEventDispatcher,
    DomainEventHandler,
    DomainEventHandlerRegistry,
    SimpleDomainEventHandlerFactory,
)
from events.domain.implementation.dishka import DomainEventImplementationProvider

FLOOR = "floor: dict look-up, sequential await"


@dataclass(frozen=True)
class OrderPlaced(DomainEvent):
    type = "order.placed"
    order: str
    customer: str
    cents: int


EVENT = OrderPlaced("c7b3d1a4-8a04-4a1e-9d43-0c2d1f6a7e55", "ada@example.org", 129_900)


class Session:
    """What handlers share in a unit of work; it counts what they did."""

    def __init__(self) -> None:
        self.writes = 0


class First(DomainEventHandler[OrderPlaced]):
    def __init__(self, session: Session) -> None:
        self.session = session

    async def handle(self, event: OrderPlaced) -> None:
        self.session.writes += 1


class Second(First):
    pass


class Third(First):
    pass


HANDLERS = (First, Second, Third)

Publish: TypeAlias = Callable[[int], Awaitable[None]]
Contestant: TypeAlias = Callable[[int, Session], AbstractAsyncContextManager[Publish]]


@asynccontextmanager
async def floor(handlers: int, session: Session) -> AsyncGenerator[Publish]:
    table = {OrderPlaced: [cls(session) for cls in HANDLERS[:handlers]]}

    async def publish_one(event: OrderPlaced) -> None:
        for handler in table[type(event)]:
            await handler.handle(event)

    async def publish(times: int) -> None:
        for _ in range(times):
            await publish_one(EVENT)

    yield publish


@asynccontextmanager
async def ours(handlers: int, session: Session) -> AsyncGenerator[Publish]:
    dispatcher = DomainEventDispatcher(trivial(handlers, session))

    async def publish(times: int) -> None:
        for _ in range(times):
            dispatcher.store_event(EVENT)
            await dispatcher.process()

    yield publish


@asynccontextmanager
async def ours_anew(handlers: int, session: Session) -> AsyncGenerator[Publish]:
    factory = trivial(handlers, session)

    async def publish(times: int) -> None:
        for _ in range(times):
            async with DomainEventDispatcher(factory) as dispatcher:
                dispatcher.store_event(EVENT)

    yield publish


@asynccontextmanager
async def ours_with_dishka(handlers: int, session: Session) -> AsyncGenerator[Publish]:
    async with container_with(handlers, session) as container, container() as request:
        dispatcher = await request.get(DomainEventDispatcher)

        async def publish(times: int) -> None:
            for _ in range(times):
                dispatcher.store_event(EVENT)
                await dispatcher.process()

        yield publish


@asynccontextmanager
async def ours_with_dishka_scopes(handlers: int, session: Session) -> AsyncGenerator[Publish]:
    async with container_with(handlers, session) as container:

        async def publish(times: int) -> None:
            for _ in range(times):
                async with container() as request:
                    dispatcher = await request.get(DomainEventDispatcher)
                    dispatcher.store_event(EVENT)
                    await dispatcher.process()

        yield publish


@asynccontextmanager
async def gather(handlers: int, session: Session) -> AsyncGenerator[Publish]:
    """What a task for each handler costs alone, to those who make them."""
    made = [cls(session) for cls in HANDLERS[:handlers]]

    async def publish(times: int) -> None:
        for _ in range(times):
            await asyncio.gather(*(handler.handle(EVENT) for handler in made))

    yield publish


@asynccontextmanager
async def dishka_alone(handlers: int, session: Session) -> AsyncGenerator[Publish]:
    """What a scope costs those who find their handlers in it, without any dispatching."""
    provider = Provider(scope=Scope.REQUEST)
    provider.provide(lambda: session, provides=Session)
    for cls in HANDLERS[:handlers]:
        provider.provide(cls)
    container = make_async_container(provider)

    async def publish(times: int) -> None:
        for _ in range(times):
            async with container() as request:
                for cls in HANDLERS[:handlers]:
                    handler = await request.get(cls)
                    await handler.handle(EVENT)

    yield publish
    await container.close()


def trivial(handlers: int, session: Session) -> SimpleDomainEventHandlerFactory:
    makers = {cls: partial(cls, session) for cls in HANDLERS[:handlers]}
    return SimpleDomainEventHandlerFactory(makers, registry_of(handlers))


def registry_of(handlers: int) -> DomainEventHandlerRegistry:
    return DomainEventHandlerRegistry({OrderPlaced: HANDLERS[:handlers]})


@asynccontextmanager
async def container_with(handlers: int, session: Session) -> AsyncGenerator[AsyncContainer]:
    sessions = Provider(scope=Scope.REQUEST)
    sessions.provide(lambda: session, provides=Session)
    container = make_async_container(
        sessions,
        DomainEventImplementationProvider(),
        context={DomainEventHandlerRegistry: registry_of(handlers)},
    )
    yield container
    await container.close()


CONTESTANTS: dict[str, Contestant] = {
    "ours, trivial factory": ours,
    "ours, trivial factory, a dispatcher per event": ours_anew,
    "ours, dishka, open scope": ours_with_dishka,
    "ours, dishka, a scope per event": ours_with_dishka_scopes,
    FLOOR: floor,
    "asyncio.gather alone": gather,
    "dishka alone, a scope per event": dishka_alone,
}
