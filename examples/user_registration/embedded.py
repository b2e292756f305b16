"""Both services in one process, with a file for a broker: for trying things out, and for tests.

Each is composed as in its own process; what differs is the bus, and that the relay and the email
service live as long as the HTTP application does. The bus keeps its events in a database of its
own, so whatever ends this process loses none.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from dishka import AsyncContainer, Provider, Scope, provide  # pyright: ignore[reportUnknownVariableType]
from fastapi import FastAPI
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncEngine

from events.dishka import IntegrationEventsProvider
from events.domain import DomainEventHandler
from events.integration import (
    IntegrationEventBus,
    IntegrationEventBusRegistration,
    Middleware,
    OutboxRelay,
)
from events.integration.implementation.base import TransportIntegrationEventBus
from events.sqlalchemy import SQLAlchemyBus, bus_table, enable_wal
from examples.user_registration import email_service, user_service
from examples.user_registration.chassis.database import create_engine, open_database
from examples.user_registration.chassis.migrations import upgrade
from examples.user_registration.email_service.container import create_container as email_container
from examples.user_registration.email_service.settings import EmailServiceSettings
from examples.user_registration.user_service.container import create_container as user_container
from examples.user_registration.user_service.presentation.app import create_app as user_app
from examples.user_registration.user_service.relay import create_relay
from examples.user_registration.user_service.settings import UserServiceSettings


class RelayProvider(Provider):
    """The user service's relay, running from when it is first asked for to the container's end."""

    @provide(scope=Scope.APP)
    async def relay(
        self, engine: AsyncEngine, bus: IntegrationEventBus, settings: UserServiceSettings
    ) -> AsyncIterator[OutboxRelay]:
        async with create_relay(engine, bus, settings) as relay:
            yield relay


@dataclass(frozen=True)
class Containers:
    """All there is to run, and to close: a container for each service, and what joins them."""

    users: AsyncContainer
    email: AsyncContainer
    events: AsyncEngine


def create_containers(
    users: UserServiceSettings,
    email: EmailServiceSettings,
    events_url: str,
    *,
    lease: float = 20.0,
    overrides: Sequence[Provider] = (),
    more_handlers: Sequence[type[DomainEventHandler[Any]]] = (),
    middlewares: Sequence[Middleware] = (),
) -> Containers:
    """Wire both services up; `overrides` and `more_handlers` are for the user service.

    `lease` is how many seconds after its death the events of a process are another's.
    """
    events = create_engine(events_url)

    def make_bus(
        registrations: Iterable[IntegrationEventBusRegistration] = (),
        /,
        *,
        middlewares: Sequence[Middleware] = (),
    ) -> SQLAlchemyBus:
        return SQLAlchemyBus(events, registrations, middlewares=middlewares, lease=lease)

    return Containers(
        user_container(
            users,
            IntegrationEventsProvider(make_bus),
            RelayProvider(),
            *overrides,
            more_handlers=more_handlers,
        ),
        email_container(email, make_bus, middlewares=middlewares),
        events,
    )


async def migrate(users: UserServiceSettings, email: EmailServiceSettings, events_url: str) -> None:
    """Make the tables of both services and of the bus, or bring them up to date."""
    await upgrade(user_service.ALEMBIC, users.database_url)
    await upgrade(email_service.ALEMBIC, email.database_url)
    metadata = MetaData()
    bus_table(metadata)
    async with open_database(events_url) as engine:
        await enable_wal(engine)
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)


def create_app(containers: Containers) -> FastAPI:
    """Make the HTTP application, which starts and stops everything behind it."""
    app = user_app(containers.users)
    serve_users = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(containers.events.dispose)
            await stack.enter_async_context(serve_users(app))
            stack.push_async_callback(containers.email.close)
            # The consumers first, so that they are there for what the relay finds.
            await containers.email.get(TransportIntegrationEventBus)
            await containers.email.get(OutboxRelay)
            await containers.users.get(OutboxRelay)
            yield

    app.router.lifespan_context = lifespan
    return app
