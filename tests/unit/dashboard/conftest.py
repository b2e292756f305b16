"""A bus in memory whose consumer fails, and a client of its page, which is mounted as users mount it."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from events.dashboard import Access, dashboard
from events.integration import (
    PII,
    Consumer,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    RetryPolicy,
    Topic,
)
from events.memory import MemoryBus
from events.testing import eventually

USERS = Topic("dashboard.users")
ORIGIN = "http://shop.example"
ROOT = "/ops/events/"

VISITORS: dict[str, Access | str | None] = {
    "nobody": None,
    "reader": "read",
    "anna": Access("operate", "anna"),
    "berta": Access("operate", "berta"),
    "privy": Access("operate", "privy", personal=True),
}


@dataclass(frozen=True, kw_only=True)
class Registered(IntegrationEvent):
    type = "dashboard.registered"
    version = 1

    number: int
    email: Annotated[str, PII] = "ada@example.com"


class Mails(Consumer):
    """Fail while it is broken."""

    def __init__(self) -> None:
        super().__init__("dashboard.mails")
        self.broken = True
        self.handled: list[int] = []

    async def on_event(self, event: Any) -> None:
        if self.broken:
            raise ConnectionError(f"no mail to {event.email} at attempt 1 of {event.number}")
        self.handled.append(event.number)


class Client:
    """The requests of a user's browser."""

    def __init__(self, http: httpx.AsyncClient, consumer: Mails, bus: MemoryBus) -> None:
        self.http = http
        self.consumer = consumer
        self.bus = bus

    async def get(self, path: str, *, who: str = "anna") -> httpx.Response:
        return await self.http.get(ROOT + path, headers={"x-visitor": who})

    async def token(
        self, who: str = "anna", path: str = "dead/chosen?action=redrive&consumer=dashboard.mails"
    ) -> str:
        page = await self.get(path, who=who)
        found = re.search(r'name="token" value="([0-9a-f]{64})"', page.text)
        assert found, page.text
        return found[1]

    async def post(
        self, path: str, fields: dict[str, str], *, who: str = "anna", **headers: str
    ) -> httpx.Response:
        sent = {"x-visitor": who, "origin": ORIGIN} | headers
        sent = {name.replace("_", "-"): value for name, value in sent.items() if value}
        return await self.http.post(ROOT + path, data=fields, headers=sent)

    async def dead(self) -> int:
        return len(await self.bus.dead_letters("dashboard.mails", limit=1000))

    async def fail(self, count: int, key: str | None = None) -> None:
        for number in range(count):
            await self.bus.send(USERS, Registered(number=number), key=key)

        async def all_dead() -> bool:
            return await self.dead() == count

        await eventually(all_dead)

    async def job(self, location: str) -> dict[str, Any]:
        """Return a job when it has ended."""
        found: dict[str, Any] = {}

        async def ended() -> bool:
            response = await self.get("jobs/" + location.rpartition("/")[2] + "/data")
            found.update(response.json())
            return bool(found["state"] != "running")

        await eventually(ended)
        return found


Open = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
def open_page() -> Open:
    @asynccontextmanager
    async def open_page(**options: Any) -> AsyncGenerator[Client]:
        consumer = Mails()
        retry = RetryPolicy(attempts=1)
        bus = MemoryBus(
            [IntegrationEventBusRegistration(consumer, USERS, [Registered], retry=retry)]
        )

        async def authorize(request: Request) -> Any:
            return VISITORS[request.headers["x-visitor"]]

        given: dict[str, Any] = {"authorize": authorize, **options}
        page = dashboard(bus, **given)
        app = Starlette(routes=[Mount("/ops/events", page)])
        async with (
            bus,
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN) as http,
        ):
            yield Client(http, consumer, bus)

    return open_page


@pytest.fixture
async def client(open_page: Open) -> AsyncGenerator[Client]:
    async with open_page() as client:
        yield client
