"""The dashboard of a bus, served over HTTP with real dead letters and a real outbox behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from events.contracts import Service
from events.dashboard import Access, dashboard
from events.integration import (
    PII,
    Consumer,
    IntegrationEvent,
    IntegrationEventBus,
    IntegrationEventBusRegistration,
    OutboxRelay,
    RetryPolicy,
    Topic,
)
from events.integration.implementation.base import TransportIntegrationEventBus
from events.operations import Rates
from events.sqlalchemy import SQLAlchemyOutbox, SQLAlchemyOutboxStore, outbox_table
from events.testing import eventually
from events.testing.contracts import Harness
from examples.user_registration.chassis.http import serving

SCRIPT = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
HOSTILE = (
    SCRIPT,
    "\u202egnirts desrever\u202c and \u2066more\u2069",
    "&lt;b&gt; &amp; {{ 7 * 7 }} {% raw %} ${1+1} ');--",
    "x" * 5_000,
    "a NUL \x00, an escape \x1b[31m and a bell \x07",
    "first line\n\n\nand the fourth",
)


@dataclass(frozen=True, kw_only=True)
class UserRegisteredV1(IntegrationEvent):
    """Somebody registered."""

    type = "shown.user.registered"
    version = 1

    number: int
    note: str = ""
    email: Annotated[str, PII] = "ada@example.com"


@dataclass
class Mails(Consumer):
    """Fail while it is broken, with text of the event in the error; wait while it is held."""

    of: str
    broken: bool = True
    handled: list[int] = field(default_factory=list[int])
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        super().__init__(self.of)
        self.goes_on.set()

    async def on_event(self, event: Any) -> None:
        await self.goes_on.wait()
        if self.broken:
            raise ConnectionError(f"mail server refused number {event.number}: {event.note}")
        self.handled.append(event.number)


@dataclass
class Shown:
    """The objects behind the page, and its URL."""

    url: str
    bus: TransportIntegrationEventBus
    topic: Topic
    mails: Mails
    relay: OutboxRelay
    engine: AsyncEngine

    async def die(self, *events: UserRegisteredV1) -> None:
        await self.bus.send_many(self.topic, events)
        await self.dead_are(len(events))

    async def dead_are(self, count: int, *, within: float = 120) -> None:
        async def there() -> bool:
            found = await self.bus.dead_letters(self.mails, limit=10_000)
            return len(found) == count

        await eventually(there, timeout=within)


class _Refusing(IntegrationEventBus):
    """Refuses everything, so what a relay sends to it is parked."""

    async def send(self, topic: Topic, event: IntegrationEvent, **_: Any) -> None:
        raise ValueError(f"{topic.name} takes no {event.type}: {SCRIPT}")


def _authorize(request: Request) -> Access | None:
    who = request.cookies.get("who", "")
    return {
        "reader": Access("read", "reader"),
        "anna": Access("operate", "anna"),
        "privy": Access("operate", "privy", personal=True),
    }.get(who)


@asynccontextmanager
async def served(harness: Harness, folder: Path, **options: Any) -> AsyncGenerator[Shown]:
    """Serve the page of a bus of this harness, mounted into an application of Starlette."""
    name = uuid4().hex[:8]
    topic, mails = Topic(f"users-{name}"), Mails(f"mails-{name}")
    registration = IntegrationEventBusRegistration(
        mails, topic, [UserRegisteredV1], concurrency=8, retry=RetryPolicy(attempts=1)
    )
    metadata = MetaData()
    table = outbox_table(metadata)
    engine = create_async_engine(f"sqlite+aiosqlite:///{folder}/outbox-{name}.db")
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    relay = OutboxRelay(
        SQLAlchemyOutboxStore(engine, table=table),
        _Refusing(),
        name=f"relay-{name}",
        poll_interval=0.05,
        retry=RetryPolicy(attempts=1),
    )
    async with engine.begin() as connection:
        outbox = SQLAlchemyOutbox(connection, table=table)
        for number in range(3):
            await outbox.put(topic, UserRegisteredV1(number=number), key="ada@example.com")
        later = datetime.now(UTC) + timedelta(hours=2)
        await outbox.put(topic, UserRegisteredV1(number=9), available_at=later)
        await outbox.put(
            topic, UserRegisteredV1(number=10), available_at=later, schedule_id=f"user-10 {SCRIPT}"
        )
    bus = harness.new_bus(connect_timeout=60, startup_timeout=240)
    await bus.register(registration)
    service = Service("shop", bus, sends={topic: [UserRegisteredV1]}, owner="checkout")
    rates = Rates()
    page = dashboard(
        bus,
        authorize=_authorize,
        relay=relay,
        rates=rates,
        services=[service],
        trace_url="https://traces.example/{trace_id}",
        sample_every=0.2,
        **options,
    )
    app = Starlette(routes=[Mount("/ops/events", page)])
    try:
        async with rates, bus, relay, serving(app) as url:

            async def parked() -> bool:
                return (await relay.stats()).parked == 3

            await eventually(parked)
            yield Shown(f"{url}/ops/events/", bus, topic, mails, relay, engine)
    finally:
        await engine.dispose()
        await harness.aclose()
