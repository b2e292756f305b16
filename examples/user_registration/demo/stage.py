"""Everything up and running on loopback, and what the scenes need of it at hand."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import httpx
from dishka import Provider
from sqlalchemy.ext.asyncio import AsyncEngine

from events.integration import IntegrationEventBusRegistration
from events.integration.implementation.base import TransportIntegrationEventBus
from examples.user_registration.contracts import USERS, UserRegisteredV1
from examples.user_registration.demo.facts import Database, Facts
from examples.user_registration.demo.faults import FailIfTold, Faults, FaultsProvider
from examples.user_registration.demo.mail_server import Answer, MailServer
from examples.user_registration.demo.serving import serving
from examples.user_registration.demo.timeline import Timeline
from examples.user_registration.demo.watch import (
    Onlooker,
    WatchAttempts,
    WatchTransactions,
    say_answer,
)
from examples.user_registration.embedded import create_app, create_container
from examples.user_registration.settings import Settings

MakeMailServer: TypeAlias = Callable[[Callable[[Answer], None]], MailServer]

ATTEMPTS = 4
_RETRY_DELAY = 0.15  # seconds, three times as long after each attempt
_ANSWER_TIMEOUT = 5.0


@dataclass(frozen=True)
class Stage:
    timeline: Timeline
    http: httpx.AsyncClient
    mail: MailServer
    bus: TransportIntegrationEventBus
    facts: Facts
    faults: Faults
    transactions: WatchTransactions
    attempts: WatchAttempts
    onlooker: Onlooker

    def introduce(self) -> None:
        self.timeline.head()
        self.timeline.say("demo", f"HTTP on {self.http.base_url}, SMTP on port {self.mail.port}")
        self.timeline.say("demo", f"SQLite in {self.facts.database.path}")

    async def register(self, email: str) -> int:
        """Ask the service to register the address; return the status, 0 if there was no answer."""
        self.timeline.say("http", f"POST /users {email}")
        try:
            response = await self.http.post("/users", json={"email": email})
        except httpx.HTTPError as error:
            self.timeline.say("http", f"no answer: {type(error).__name__} {error}", style="red")
            return 0
        status = HTTPStatus(response.status_code)
        correlation_id = self.timeline.correlation_id(email) if response.is_success else ""
        self.timeline.say("http", f"{status.value} {status.phrase}", correlation_id)
        return status.value


@asynccontextmanager
async def stage(
    timeline: Timeline, make_mail_server: MakeMailServer, overrides: Sequence[Provider], port: int
) -> AsyncGenerator[Stage]:
    with TemporaryDirectory(prefix="user-registration-") as folder:
        path = Path(folder) / "users.sqlite3"
        database = Database(path)
        faults, attempts = Faults(timeline), WatchAttempts(timeline)
        async with make_mail_server(partial(say_answer, timeline)) as mail:
            settings = Settings(
                database_url=f"sqlite+aiosqlite:///{path}",
                smtp_host="127.0.0.1",
                smtp_port=mail.port,
                mail_attempts=ATTEMPTS,
                mail_retry_delay=_RETRY_DELAY,
            )
            container = create_container(
                settings,
                FaultsProvider(faults),
                *overrides,
                middlewares=[attempts],
                more_handlers=[FailIfTold],
            )
            async with (
                serving(create_app(container), port) as url,
                httpx.AsyncClient(base_url=url, timeout=_ANSWER_TIMEOUT, trust_env=False) as http,
            ):
                transactions = WatchTransactions(timeline, database)
                transactions.watch(await container.get(AsyncEngine))
                bus = await container.get(TransportIntegrationEventBus)
                onlooker = Onlooker(timeline)
                await bus.register(
                    IntegrationEventBusRegistration(onlooker, USERS, [UserRegisteredV1])
                )
                facts = Facts(database, mail, bus)
                yield Stage(
                    timeline, http, mail, bus, facts, faults, transactions, attempts, onlooker
                )
