"""A consumer with an inbox as a process of its own, which dies between commit and acknowledgement.

    python -m tests.databases.inbox_worker '{"bus": ..., "database": ..., "topic": ..., "dies": 3}'

`dies` is the number of the event at which it kills itself, once its effect is committed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

from sqlalchemy.ext.asyncio import create_async_engine

from events.integration import (
    Handle,
    IncomingEvent,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    Topic,
)
from events.integration.implementation.rabbitmq import RabbitMQIntegrationEventBus
from events.testing.contracts import Numbered, Probe
from tests.contracts.sqlalchemy_inbox import SQLAlchemyInboxDatabase


async def main(bus: str, database: str, topic: str, dies: int | None = None) -> None:
    there = SQLAlchemyInboxDatabase(create_async_engine(database))

    async def handle(event: IntegrationEvent) -> None:
        assert isinstance(event, Numbered)
        await there.write(event.number)

    async def die(incoming: IncomingEvent, call_next: Handle, /) -> None:
        await call_next(incoming)  # the inbox has committed
        if isinstance(incoming.event, Numbered) and incoming.event.number == dies:
            os.kill(os.getpid(), signal.SIGKILL)

    registration = IntegrationEventBusRegistration(
        Probe(f"{topic}-worker", handle), Topic(topic), [Numbered], concurrency=5
    )
    consuming = RabbitMQIntegrationEventBus(
        bus,
        [registration],
        middlewares=[die, there.inbox],
        connect_timeout=60,  # as the machine may be busy
        startup_timeout=240,
    )
    await consuming.run()
    await there.engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(**json.loads(sys.argv[1])))
