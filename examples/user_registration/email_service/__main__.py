"""`python -m examples.user_registration.email_service`: consumer, mail relay and probes."""

import asyncio
import sys
from collections.abc import Iterable, Sequence

import structlog
from dishka import AsyncContainer
from starlette.applications import Starlette

from events.integration import IntegrationEventBusRegistration, Middleware, OutboxRelay
from events.integration.implementation.base import TransportIntegrationEventBus
from events.rabbitmq import RabbitMQBus
from examples.user_registration.chassis.http import probes, serving
from examples.user_registration.chassis.logs import configure_logs
from examples.user_registration.chassis.process import run
from examples.user_registration.chassis.settings import load_or_exit
from examples.user_registration.email_service.container import create_container
from examples.user_registration.email_service.settings import EmailServiceSettings

_logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger("email_service")


async def serve(settings: EmailServiceSettings) -> None:
    def make_bus(
        registrations: Iterable[IntegrationEventBusRegistration],
        /,
        *,
        middlewares: Sequence[Middleware],
    ) -> RabbitMQBus:
        return RabbitMQBus(
            settings.rabbitmq_url,
            registrations,
            middlewares=middlewares,
            connect_timeout=settings.rabbitmq_connect_timeout,
        )

    container = create_container(settings, make_bus)
    try:
        await _serve(container, settings)
    finally:
        await container.close()


async def _serve(container: AsyncContainer, settings: EmailServiceSettings) -> None:
    bus = await container.get(TransportIntegrationEventBus)
    relay = await container.get(OutboxRelay)

    async def consumer() -> str | None:
        health = bus.health()
        return None if health.healthy else ("not connected" if health.started else "not started")

    async def mail() -> str | None:
        health = relay.health()
        return None if health.healthy else (health.outage or "it does not run")

    app = Starlette(routes=probes({"consumer": consumer, "mail": mail}))
    async with (
        serving(app, host=settings.probe_host, port=settings.probe_port),
        asyncio.TaskGroup() as group,
    ):
        # Started as they are, they now watch over themselves: if one ends, the process does.
        group.create_task(bus.run(signals=()))
        group.create_task(relay.run(signals=()))
        _logger.info("consuming", consumers=[str(each) for each in bus.registrations])


def main() -> int:
    configure_logs("email-service")
    settings = load_or_exit(EmailServiceSettings)
    return run(lambda: serve(settings))


if __name__ == "__main__":
    sys.exit(main())
