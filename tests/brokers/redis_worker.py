"""A consumer in a process of its own, to be killed: it writes down what it begins and ends.

    python -m tests.brokers.redis_worker URL TOPIC CONSUMER OUT '{"delay": 0.05, "killer": 3}'

Lines of OUT are `begin NUMBER ATTEMPT` and `end NUMBER`, and `ready` when it receives.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from events.integration.implementation.redis import RedisStreamsIntegrationEventBus
from events.integration.message import current_delivery
from events.integration.topology import Consumer, IntegrationEventBusRegistration, Topic
from events.testing.contracts import Numbered


class Worker(Consumer):
    def __init__(self, name: str, out: Path, delay: float, killer: int | None) -> None:
        super().__init__(name)
        self._out = out.open("a", buffering=1)
        self._delay = delay
        self._killer = killer

    def note(self, line: str) -> None:
        self._out.write(line + "\n")

    async def on_event(self, event: Any) -> None:
        delivery = current_delivery()
        assert delivery is not None
        self.note(f"begin {event.number} {delivery.attempt}")
        if event.number == self._killer:
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(self._delay)
        self.note(f"end {event.number}")


async def main(url: str, topic: str, consumer: str, out: str, given: str) -> None:
    options: dict[str, Any] = json.loads(given)
    worker = Worker(consumer, Path(out), options.pop("delay", 0), options.pop("killer", None))
    concurrency = options.pop("concurrency", 1)
    bus = RedisStreamsIntegrationEventBus(url=url, **options)
    registration = IntegrationEventBusRegistration(
        worker, Topic(topic), [Numbered], concurrency=concurrency
    )
    await bus.register(registration)
    await bus.startup()
    worker.note("ready")
    await bus.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:6]))
