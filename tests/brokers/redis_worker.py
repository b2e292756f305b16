"""A consumer in a process of its own, to be killed: it writes down what it begins and ends.

    python -m tests.brokers.redis_worker URL TOPIC CONSUMER OUT '{"delay": 0.05, "killer": 3}'

With `"broken": true` the bus itself fails at whatever it receives, as a defect in it would.

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
from events.integration.implementation.redis._entries import Entry
from events.integration.message import current_delivery
from events.integration.topology import (
    Consumer,
    IntegrationEventBusRegistration,
    RetryPolicy,
    Topic,
)
from events.testing.contracts import Numbered


class Worker(Consumer):
    def __init__(
        self, name: str, out: Path, *, delay: float, killer: int | None, flaky: bool
    ) -> None:
        super().__init__(name)
        self._out = out.open("a", buffering=1)
        self._delay = delay
        self._killer = killer
        self._flaky = flaky

    def note(self, line: str) -> None:
        self._out.write(line + "\n")

    async def on_event(self, event: Any) -> None:
        delivery = current_delivery()
        assert delivery is not None
        self.note(f"begin {event.number} {delivery.attempt}")
        if event.number == self._killer:
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(self._delay)
        if self._flaky and delivery.attempt == 1:
            raise RuntimeError("the first attempt always fails")
        self.note(f"end {event.number}")


async def main(url: str, topic: str, consumer: str, out: str, given: str) -> None:
    options: dict[str, Any] = json.loads(given)
    worker = Worker(
        consumer,
        Path(out),
        delay=options.pop("delay", 0),
        killer=options.pop("killer", None),
        flaky=options.pop("flaky", False),
    )
    concurrency = options.pop("concurrency", 1)
    if options.pop("broken", False):
        Entry.read = None  # type: ignore[assignment]
    bus = RedisStreamsIntegrationEventBus(
        url,
        connect_timeout=60,  # as the machine may be busy, and not to start counts as a death
        startup_timeout=240,
        **options,
    )
    registration = IntegrationEventBusRegistration(
        worker,
        Topic(topic),
        [Numbered],
        concurrency=concurrency,
        retry=RetryPolicy(attempts=20, delay=0.05, factor=1, in_place=0),
    )
    await bus.register(registration)
    await bus.startup()
    worker.note("ready")
    await bus.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:6]))
