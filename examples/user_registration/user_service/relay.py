"""The outbox relay of the service, a process that the library runs:

events-relay examples.user_registration.user_service.relay:make_relay
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette

from events.errors import BusError
from events.integration import IntegrationEventBus, Message, OutboxRelay
from events.rabbitmq import RabbitMQBus
from events.sqlalchemy import SQLAlchemyOutboxStore
from examples.user_registration.chassis.database import open_database
from examples.user_registration.chassis.http import probes, serving
from examples.user_registration.chassis.logs import configure_logs
from examples.user_registration.chassis.settings import load_or_exit
from examples.user_registration.user_service.infrastructure.tables import outbox
from examples.user_registration.user_service.settings import UserServiceSettings

_logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger("user_service.relay")


def create_relay(
    engine: AsyncEngine, bus: IntegrationEventBus, settings: UserServiceSettings
) -> OutboxRelay:
    return OutboxRelay(
        SQLAlchemyOutboxStore(engine, table=outbox),
        bus,
        lease=settings.relay_lease,
        poll_interval=settings.relay_poll_interval,
    )


class LoggingBus(RabbitMQBus):
    """Say of each event that it went out, so that its way can be followed."""

    async def forward(self, messages: Sequence[Message]) -> list[BusError | None]:
        outcomes = await super().forward(messages)
        for message, error in zip(messages, outcomes, strict=True):
            if error is None:
                _logger.info(
                    "event sent",
                    event_type=message.type,
                    event_id=message.id,
                    correlation_id=message.correlation_id,
                )
        return outcomes


@asynccontextmanager
async def make_relay() -> AsyncGenerator[OutboxRelay]:
    configure_logs("user-relay")
    settings = load_or_exit(UserServiceSettings)
    async with (
        open_database(settings.database_url) as engine,
        LoggingBus(settings.rabbitmq_url, connect_timeout=settings.rabbitmq_connect_timeout) as bus,
    ):
        relay = create_relay(engine, bus, settings)

        async def outage() -> str | None:
            health = relay.health()
            return None if health.healthy else (health.outage or "it does not run")

        async def broker() -> str | None:
            return None if bus.health().connected else "not connected"

        app = Starlette(routes=probes({"relay": outage, "broker": broker}))
        async with serving(app, host=settings.http_host, port=settings.relay_probe_port):
            yield relay
