from collections.abc import Sequence
from typing import Any

from dishka import AsyncContainer, Provider, make_async_container

from events.dishka import DomainEventsProvider
from events.domain import DomainEventHandler
from examples.user_registration.user_service.providers import (
    DOMAIN_EVENT_HANDLERS,
    UserServiceProvider,
)
from examples.user_registration.user_service.settings import UserServiceSettings


def create_container(
    settings: UserServiceSettings,
    *overrides: Provider,
    more_handlers: Sequence[type[DomainEventHandler[Any]]] = (),
) -> AsyncContainer:
    """Wire the service up; `overrides` take the place of what they provide as well."""
    return make_async_container(
        DomainEventsProvider([*DOMAIN_EVENT_HANDLERS, *more_handlers]),
        UserServiceProvider(),
        *overrides,
        context={UserServiceSettings: settings},
    )
