"""Both services in one process, on the in-memory bus: for trying things out, and for tests."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from dishka import AsyncContainer, Provider, Scope, make_async_container, provide  # pyright: ignore[reportUnknownVariableType]
from dishka.integrations.fastapi import setup_dishka
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from events.domain import DomainEventHandler
from events.domain.implementation.dishka import DomainEventImplementationProvider
from events.integration import IntegrationEventBus, Middleware, OutboxRelay
from events.integration.implementation.dishka import IntegrationEventImplementationProvider
from events.integration.implementation.memory import InMemoryIntegrationEventBus
from events.integration.implementation.sqlalchemy import SQLAlchemyOutboxStore
from examples.user_registration.email_service.presentation.consumer import email_registration
from examples.user_registration.email_service.providers import EmailServiceProvider
from examples.user_registration.settings import Settings
from examples.user_registration.user_service.application.ports import EmailTakenError
from examples.user_registration.user_service.presentation.api import email_taken, router
from examples.user_registration.user_service.providers import (
    DOMAIN_EVENT_HANDLERS,
    UserServiceProvider,
)


class RelayProvider(Provider):
    """The relay, running from when it is first asked for until the container closes."""

    @provide(scope=Scope.APP)
    async def relay(
        self, engine: AsyncEngine, bus: IntegrationEventBus
    ) -> AsyncIterator[OutboxRelay]:
        async with OutboxRelay(SQLAlchemyOutboxStore(engine), bus) as relay:
            yield relay


def create_container(
    settings: Settings,
    *overrides: Provider,
    middlewares: Sequence[Middleware] = (),
    more_handlers: Sequence[type[DomainEventHandler[Any]]] = (),
) -> AsyncContainer:
    """Wire everything up; `overrides` take the place of what they provide as well."""
    registration = email_registration(
        attempts=settings.mail_attempts, delay=settings.mail_retry_delay
    )
    return make_async_container(
        DomainEventImplementationProvider([*DOMAIN_EVENT_HANDLERS, *more_handlers]),
        IntegrationEventImplementationProvider(
            InMemoryIntegrationEventBus, [registration], middlewares=middlewares
        ),
        UserServiceProvider(),
        EmailServiceProvider(),
        RelayProvider(),
        *overrides,
        context={Settings: settings},
    )


def create_app(container: AsyncContainer) -> FastAPI:
    """Make the HTTP application, which starts and stops everything behind it."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        try:
            await container.get(OutboxRelay)  # and with it the bus, and with that the consumers
            yield
        finally:
            await container.close()

    app = FastAPI(title="User registration", lifespan=lifespan)
    app.include_router(router)
    app.add_exception_handler(EmailTakenError, email_taken)
    setup_dishka(container, app)
    return app
