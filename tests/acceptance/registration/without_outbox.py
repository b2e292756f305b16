"""The user service without its outbox: it sends immediately, inside the transaction."""

import logging
import sys
from collections.abc import Mapping
from datetime import datetime
from unittest import mock

from events.errors import BusError
from events.integration import IntegrationEvent, Topic
from events.integration.implementation.rabbitmq import RabbitMQIntegrationEventBus
from examples.user_registration.user_service import __main__ as program
from examples.user_registration.user_service import providers
from examples.user_registration.user_service.settings import UserServiceSettings


class SendsAtOnce:
    """Replaces `SQLAlchemyOutbox`."""

    bus: RabbitMQIntegrationEventBus

    def __init__(self, _session: object, **_: object) -> None:
        pass

    async def put(
        self,
        topic: Topic,
        event: IntegrationEvent,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        available_at: datetime | None = None,
    ) -> str:
        try:
            await self.bus.send(topic, event)
        except BusError as error:
            logging.getLogger(__name__).warning("not sent: %s", error)
        return ""


as_it_is = program.serve


async def serve(settings: UserServiceSettings) -> None:
    async with RabbitMQIntegrationEventBus(
        settings.rabbitmq_url, send_timeout=0.2, connect_timeout=60, startup_timeout=240
    ) as bus:
        SendsAtOnce.bus = bus
        await as_it_is(settings)


if __name__ == "__main__":
    with (
        mock.patch.object(program, "serve", serve),
        mock.patch.object(providers, "SQLAlchemyOutbox", SendsAtOnce),
    ):
        sys.exit(program.main())
