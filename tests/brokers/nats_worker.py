"""A consumer as a process of its own, to be killed. It records what it does, line by line.

    python -m tests.brokers.nats_worker '{"url": ..., "topic": ..., "notes": ...}'

Also: `consumer`, `concurrency`, `attempts`, `seconds` (that each handler takes), `deadly` (the number
that kills its process), `lease`, `max_crashes`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

from events.integration import IntegrationEventBusRegistration, RetryPolicy, Topic, current_delivery
from events.integration.implementation.nats import NatsIntegrationEventBus
from events.testing.contracts import Numbered, Probe


async def main(url: str, topic: str, notes: str, prefix: str, **options: Any) -> None:
    out = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(word: str, number: int) -> None:
        os.write(out, f"{word} {number}\n".encode())

    async def handle(event: Numbered) -> None:
        delivery = current_delivery()
        assert delivery is not None
        note("began", event.number)
        note("attempt", delivery.attempt)
        if event.number == options.get("deadly"):
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(options.get("seconds", 0))
        note("ended", event.number)

    registration = IntegrationEventBusRegistration(
        Probe(options.get("consumer", "worker"), handle),
        Topic(topic),
        [Numbered],
        concurrency=options.get("concurrency", 1),
        retry=RetryPolicy(attempts=options.get("attempts", 3)),
    )
    bus = NatsIntegrationEventBus(
        url,
        [registration],
        lease=options.get("lease", 1.0),
        max_crashes=options.get("max_crashes", 3),
        prefix=prefix,
        connect_timeout=60,  # as the machine may be busy, and not to start counts as a death
        startup_timeout=240,
    )
    await bus.run()
    note("stopped", 0)


if __name__ == "__main__":
    asyncio.run(main(**json.loads(sys.argv[1])))
