"""The whole put together, started and stopped."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from dishka import AsyncContainer, Provider, Scope, from_context, make_async_container, provide  # pyright: ignore[reportUnknownVariableType]
from dishka.integrations.fastapi import setup_dishka
from fastapi import FastAPI

from events.integration.implementation.base import TransportIntegrationEventBus
from events.memory import MemoryBroadcastBus
from events.redis import RedisPubSubBus
from examples.online_chat.application.chat import Chat, ServerId
from examples.online_chat.logs import log_with_correlation
from examples.online_chat.presentation.api import page, router
from examples.online_chat.presentation.limits import Doors
from examples.online_chat.presentation.security import SecurityHeaders
from examples.online_chat.settings import Settings


def create_bus(settings: Settings) -> TransportIntegrationEventBus:
    """Make the one thing that differs between one server and many."""
    if settings.redis_url is None:
        return MemoryBroadcastBus(middlewares=[log_with_correlation])
    return RedisPubSubBus(
        settings.redis_url,
        source="/examples/online-chat",
        middlewares=[log_with_correlation],
        send_timeout=settings.send_timeout,
        connect_timeout=settings.connect_timeout,
        shutdown_grace=settings.send_timeout,
    )


class ChatProvider(Provider):
    scope = Scope.APP

    settings = from_context(Settings)
    server = from_context(ServerId)

    @provide
    async def bus(self, settings: Settings) -> AsyncIterator[TransportIntegrationEventBus]:
        async with create_bus(settings) as bus:
            yield bus

    @provide
    async def chat(
        self, bus: TransportIntegrationEventBus, settings: Settings, server: ServerId
    ) -> AsyncIterator[Chat]:
        chat = Chat(bus, server, heartbeat=settings.heartbeat, timeout=settings.timeout)
        async with chat:
            yield chat

    @provide
    def doors(self, settings: Settings) -> Doors:
        return Doors(settings.max_sockets)


def create_container(settings: Settings, server: ServerId) -> AsyncContainer:
    return make_async_container(ChatProvider(), context={Settings: settings, ServerId: server})


def create_app(container: AsyncContainer) -> FastAPI:
    """Make the HTTP application, which starts and stops everything behind it."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        try:
            await container.get(Chat)
            yield
        finally:
            await container.close()

    app = FastAPI(title="Online chat", lifespan=lifespan, openapi_url=None)
    app.include_router(router)
    app.mount("/", page)
    app.add_middleware(SecurityHeaders)
    setup_dishka(container, app)
    return app
