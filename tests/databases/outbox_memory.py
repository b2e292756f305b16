"""A program: empty an outbox, and print by how many bytes the process has grown at most."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.ext.asyncio import create_async_engine

from events.integration import Message, OutboxRelay
from events.integration.implementation.sqlalchemy import SQLAlchemyOutboxStore
from events.testing.contracts.outbox import ForwardedBus


class ForgettingBus(ForwardedBus):
    """Takes a moment, like a broker, so that batches are in flight."""

    async def forward(self, messages: Sequence[Message]) -> Sequence[None]:
        await asyncio.sleep(0.01)
        return [None] * len(messages)


def peak() -> int:
    """Return the peak memory of this process; `getrusage` would include its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return 1024 * int(status["VmHWM"].split()[0])


async def main(url: str) -> None:
    engine = create_async_engine(url)
    relay = OutboxRelay(SQLAlchemyOutboxStore(engine), ForgettingBus())
    await relay.check()
    before = peak()
    async with relay:
        await relay.drain()
    print(peak() - before)  # noqa: T201 - read by the test
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
