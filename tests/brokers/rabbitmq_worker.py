"""A consumer as a process of its own, to be killed. It keeps a journal of what it does.

    python -m tests.brokers.rabbitmq_worker URL TOPIC CONSUMER JOURNAL OPTIONS

OPTIONS is JSON: concurrency, attempts, prefetch, queue_type, seconds (that each handler takes), deadly (the number at
which it kills its own process).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from events.integration import IntegrationEventBusRegistration, RetryPolicy, Topic
from events.integration.implementation.rabbitmq import RabbitMQIntegrationEventBus
from events.testing.contracts import Numbered, Probe


async def main(url: str, topic: str, consumer: str, journal: str, options: str) -> None:
    settings = json.loads(options)
    out = os.open(Path(journal), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(*words: object) -> None:
        os.write(out, (" ".join(map(str, words)) + "\n").encode())

    async def handle(event: Numbered) -> None:
        note("began", event.number)
        if event.number == settings.get("deadly"):
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(settings.get("seconds", 0))
        note("ended", event.number)

    bus = RabbitMQIntegrationEventBus(
        url,
        [
            IntegrationEventBusRegistration(
                Probe(consumer, handle),
                Topic(topic),
                [Numbered],
                concurrency=settings.get("concurrency", 1),
                retry=RetryPolicy(attempts=settings.get("attempts", 3)),
            )
        ],
        prefetch=settings.get("prefetch"),
        queue_type=settings.get("queue_type", "quorum"),
        connect_timeout=60,  # as the machine may be busy, and not to start counts as a death
        startup_timeout=240,
    )
    await bus.run()
    note("stopped", 0)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
