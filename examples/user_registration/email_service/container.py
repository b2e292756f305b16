from collections.abc import Sequence

from dishka import AsyncContainer, Provider, make_async_container
from sqlalchemy.ext.asyncio import AsyncSession

from events.dishka import (
    IntegrationEventsProvider,
    from_scope,
)
from events.integration import Middleware, RetryPolicy
from events.integration.implementation.dishka import MakeBus
from events.sqlalchemy import SQLAlchemyInbox
from examples.user_registration.email_service.infrastructure.tables import inbox
from examples.user_registration.email_service.presentation.consumer import create_registration
from examples.user_registration.email_service.presentation.log_events import log_events
from examples.user_registration.email_service.providers import EmailServiceProvider
from examples.user_registration.email_service.settings import EmailServiceSettings


def create_container(
    settings: EmailServiceSettings,
    make_bus: MakeBus,
    *overrides: Provider,
    middlewares: Sequence[Middleware] = (),
) -> AsyncContainer:
    """Wire the service up; `overrides` take the place of what they provide as well.

    `middlewares` run around the handler, inside of the inbox's transaction.
    """
    retry = RetryPolicy(attempts=settings.event_attempts, delay=settings.event_retry_delay)
    return make_async_container(
        IntegrationEventsProvider(
            make_bus,
            [create_registration(retry)],
            middlewares=[
                SQLAlchemyInbox(from_scope(AsyncSession), table=inbox),
                log_events,
                *middlewares,
            ],
        ),
        EmailServiceProvider(),
        *overrides,
        context={EmailServiceSettings: settings},
    )
