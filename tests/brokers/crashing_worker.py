"""A consumer that dies at one event, as a process of its own: `crashing_worker NAME BUS OPTIONS`.

It writes each event that it has handled to its standard output. `NAME` is that of its topic too.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

from events.integration import IntegrationEventBusRegistration, RetryPolicy, Topic
from events.nats import NATSBus
from events.rabbitmq import RabbitMQBus
from events.redis import RedisStreamsBus
from events.testing.contracts import Numbered, Probe

BUSES: dict[str, Any] = {"nats": NATSBus, "rabbitmq": RabbitMQBus, "redis": RedisStreamsBus}
DEADLY = 3


async def main(name: str, kind: str, given: str) -> None:
    options: dict[str, Any] = json.loads(given)
    retry = RetryPolicy(**options.pop("retry"))

    async def handle(event: Numbered) -> None:
        if event.number == DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)
        print(event.number, flush=True)  # noqa: T201

    registration = IntegrationEventBusRegistration(
        Probe(name, handle), Topic(name), [Numbered], concurrency=4, retry=retry
    )
    bus = BUSES[kind](
        registrations=[registration],
        connect_timeout=60,  # as the machine may be busy, and not to start counts as a death
        startup_timeout=240,
        **options,
    )
    await bus.startup()
    print("started", flush=True)  # noqa: T201
    await bus.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
