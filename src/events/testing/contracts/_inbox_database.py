"""Shared by the suites of an inbox: a database, an event, a delivery, and a dying process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from events.integration.event import IntegrationEvent
from events.integration.message import Delivery
from events.integration.pipeline import IncomingEvent, Middleware
from events.integration.topology import Consumer, IntegrationEventBusRegistration, Topic

TOPIC = Topic("inbox-contract")
DEADLINE = 120.0
ID = "0192e4a0-0000-7000-8000-000000000001"
ANOTHER = "0192e4a0-0000-7000-8000-000000000002"


class _HasInbox(Protocol):
    @property
    def inbox(self) -> Middleware:
        """Return the inbox, ready for deliveries."""
        ...


class InboxDatabase(_HasInbox, Protocol):
    """A database with an inbox and a table of effects, as this suite uses it."""

    @property
    def worker_command(self) -> Sequence[str]:
        """Return a command that calls `handle_and_die(database, *arguments)` in a new process."""
        ...

    async def write(self, effect: int) -> None:
        """Write an effect in the transaction of the event that is being handled."""
        ...

    async def fail(self) -> None:
        """Run a statement in that transaction that the database refuses, and raise its error."""
        ...

    async def put(self, event: IntegrationEvent) -> None:
        """Put an event into the outbox in that transaction."""
        ...

    async def commit(self) -> None:
        """Commit that transaction, as a handler might."""
        ...

    async def roll_back(self) -> None:
        """Roll it back, as a handler might."""
        ...

    @property
    def endings(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Return, by name, all ways to end that transaction but a commit and a rollback.

        Such as closing the session. Afterwards `write` may be called again.
        """
        ...

    async def effects(self) -> list[int]:
        """Return all committed effects, in the order of their numbers."""
        ...

    async def rows(self) -> int:
        """Return how many rows the inbox has committed."""
        ...

    async def waiting(self) -> int:
        """Return how many events the outbox has committed."""
        ...


@dataclass(frozen=True)
class Noted(IntegrationEvent):
    """An event that its number distinguishes from others."""

    type = "events.testing.noted"
    version = 1
    number: int


class _Named(Consumer):
    async def on_event(self, event: IntegrationEvent) -> None:
        raise NotImplementedError


Handler = Callable[[], Awaitable[None]]


async def deliver(
    database: _HasInbox, handler: Handler, id: str = ID, consumer: str = "worker"
) -> bool:
    """Deliver a message; say whether the handler was called."""
    called = False

    async def call(_: IncomingEvent) -> None:
        nonlocal called
        called = True
        await handler()

    registration = IntegrationEventBusRegistration(_Named(consumer), TOPIC, [Noted])
    delivery = Delivery(TOPIC.name, consumer, id, b"{}", {})
    async with asyncio.timeout(DEADLINE):
        await database.inbox(IncomingEvent(Noted(1), delivery, registration), call)
    return called


async def handle_and_die(database: InboxDatabase, step: str) -> None:
    """Handle a message, and die by SIGKILL where the step says.

    "written" is in the handler, after its effect; "committed" is after all, before the bus would
    acknowledge; "none" is never.
    """

    async def handler() -> None:
        await database.write(1)
        if step == "written":
            os.kill(os.getpid(), signal.SIGKILL)

    await deliver(database, handler)
    if step == "committed":
        os.kill(os.getpid(), signal.SIGKILL)
