"""A consumer on a database's bus as a process of its own, which kills itself at a step.

    python -m tests.databases.bus_worker '{"database": ..., "topic": ..., "journal": ..., ...}'

It writes a line for each event that it begins, and one for each that it has handled; with `writes`
a row into `effects` as well, in the transaction of the event. `dies` names the step: `read`,
`handling`, `handled` or `removed`; `number` is the event at which, where one can be named.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

from sqlalchemy import Column, Integer, MetaData, Table, insert
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from events.integration import (
    Handle,
    IncomingEvent,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    RetryPolicy,
    Topic,
)
from events.integration.implementation.sqlalchemy import (
    SQLAlchemyIntegrationEventBus,
    current_session,
)
from events.integration.implementation.sqlalchemy._bus.rows import Rows
from events.testing.contracts import Numbered, Probe

LEASE = 2.0
EFFECTS = Table(
    "effects",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("number", Integer, nullable=False),
)
CONCURRENCY = 4


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DyingAfterReading(Rows):
    async def due(self, *args: Any, **options: Any) -> Any:
        found = await super().due(*args, **options)
        if found[0]:
            die()
        return found


class DyingAfterRemoving(Rows):
    async def settle(self, *args: Any, **options: Any) -> None:
        await super().settle(*args, **options)
        die()


async def main(
    database: str,
    topic: str,
    journal: str,
    *,
    dies: str | None = None,
    number: int = -1,
    attempts: int = 3,
    max_crashes: int = 5,
    writes: bool = False,
) -> None:
    lines = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def handle(event: IntegrationEvent) -> None:
        assert isinstance(event, Numbered)
        os.write(lines, f"begun {event.number}\n".encode())
        if writes:
            await current_session().execute(insert(EFFECTS), {"number": event.number})
        if dies == "handling" and event.number == number:
            die()
        await asyncio.sleep(0)
        os.write(lines, f"handled {event.number}\n".encode())

    async def around(incoming: IncomingEvent, call_next: Handle, /) -> None:
        await call_next(incoming)
        if dies == "handled" and getattr(incoming.event, "number", None) == number:
            die()

    engine = create_async_engine(database)
    registration = IntegrationEventBusRegistration(
        Probe(f"{topic}-worker", handle),
        Topic(topic),
        [Numbered],
        concurrency=CONCURRENCY,
        retry=RetryPolicy(attempts=attempts),
    )
    bus = SQLAlchemyIntegrationEventBus(
        engine,
        [registration],
        sessions=async_sessionmaker(engine) if writes else None,
        lease=LEASE,
        max_crashes=max_crashes,
        middlewares=[around],
    )
    dying = {"read": DyingAfterReading, "removed": DyingAfterRemoving}.get(dies or "")
    if dying is not None:
        rows: Any = bus.transport
        rows._rows.__class__ = dying
    await bus.run()
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(**json.loads(sys.argv[1])))
