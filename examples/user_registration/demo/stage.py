"""Everything up and running on loopback, and what the scenes need of it at hand."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias
from uuid import uuid4

import httpx
from dishka import Provider
from sqlalchemy.ext.asyncio import AsyncEngine

from events.integration import IntegrationEventBusRegistration, OutboxRelay
from events.integration.implementation.base import TransportIntegrationEventBus
from events.memory import MemoryBus
from examples.user_registration.chassis.http import serving
from examples.user_registration.contracts import USERS, UserRegisteredV1
from examples.user_registration.demo.facts import Database, Facts
from examples.user_registration.demo.faults import FailIfTold, Faults, FaultsProvider
from examples.user_registration.demo.mail_server import Answer, MailServer
from examples.user_registration.demo.timeline import Timeline
from examples.user_registration.demo.watch import (
    Onlooker,
    WatchAttempts,
    WatchTransactions,
    say_answer,
)
from examples.user_registration.email_service.settings import EmailServiceSettings
from examples.user_registration.embedded import create_app, create_containers, migrate
from examples.user_registration.user_service.providers import SOURCE
from examples.user_registration.user_service.settings import UserServiceSettings

MakeMailServer: TypeAlias = Callable[[Callable[[Answer], None]], MailServer]

ATTEMPTS = 3
_RETRY_DELAY = 0.15  # seconds, three times as long after each attempt
_ANSWER_TIMEOUT = 5.0


@dataclass(frozen=True)
class Stage:
    timeline: Timeline
    http: httpx.AsyncClient
    mail: MailServer
    bus: TransportIntegrationEventBus
    users_bus: MemoryBus  # which sends as the user service does: the source tells events apart, too
    mail_relay: OutboxRelay
    facts: Facts
    faults: Faults
    transactions: WatchTransactions
    attempts: WatchAttempts
    onlooker: Onlooker

    def introduce(self) -> None:
        self.timeline.say("demo", f"HTTP on {self.http.base_url}, SMTP on port {self.mail.port}")
        self.timeline.say("demo", f"SQLite in {self.facts.database.path.parent}")

    async def register(self, email: str) -> int:
        """Ask the service to register the address; return the status, 0 if there was no answer."""
        correlation_id = str(uuid4())
        self.timeline.recognise(email, correlation_id)
        self.timeline.say("http", f"POST /users {email}", correlation_id)
        try:
            response = await self.http.post(
                "/users",
                json={"email": email, "password": "correct horse battery staple"},
                headers={"X-Correlation-ID": correlation_id},
            )
        except httpx.HTTPError as error:
            self.timeline.say("http", f"no answer: {type(error).__name__} {error}", style="red")
            return 0
        status = HTTPStatus(response.status_code)
        self.timeline.say("http", f"{status.value} {status.phrase}", correlation_id)
        return status.value


@asynccontextmanager
async def stage(
    timeline: Timeline, make_mail_server: MakeMailServer, overrides: Sequence[Provider], port: int
) -> AsyncGenerator[Stage]:
    with TemporaryDirectory(prefix="user-registration-") as folder:
        path = Path(folder) / "user_service.sqlite3"
        database = Database(path)
        faults, attempts = Faults(timeline), WatchAttempts(timeline)
        async with make_mail_server(partial(say_answer, timeline)) as mail:
            user_settings = UserServiceSettings(
                database_url=f"sqlite:///{path}",
                argon2_time_cost=1,  # what is shown is not how passwords are hashed
                argon2_memory_kib=1024,
            )
            email_settings = EmailServiceSettings(
                database_url=f"sqlite:///{folder}/email_service.sqlite3",
                smtp_host="127.0.0.1",
                smtp_port=mail.port,
                smtp_username=None,  # whatever the environment has for another mail server
                smtp_password=None,
                event_attempts=ATTEMPTS,
                event_retry_delay=_RETRY_DELAY,
                mail_attempts=ATTEMPTS,
                mail_retry_delay=_RETRY_DELAY,
            )
            containers = create_containers(
                user_settings,
                email_settings,
                overrides=[FaultsProvider(faults), *overrides],
                more_handlers=[FailIfTold],
                middlewares=[attempts, faults.fail_email_if_told],
            )
            await migrate(user_settings, email_settings)
            onlooker = Onlooker(timeline)
            async with (
                MemoryBus(
                    [IntegrationEventBusRegistration(onlooker, USERS, [UserRegisteredV1])],
                    broker=containers.broker,
                    source=SOURCE,
                ) as users_bus,
                serving(create_app(containers), port=port) as url,
                httpx.AsyncClient(base_url=url, timeout=_ANSWER_TIMEOUT, trust_env=False) as http,
            ):
                transactions = WatchTransactions(timeline, database)
                transactions.watch(await containers.users.get(AsyncEngine))
                bus = await containers.email.get(TransportIntegrationEventBus)
                mail_relay = await containers.email.get(OutboxRelay)
                yield Stage(
                    timeline,
                    http,
                    mail,
                    bus,
                    users_bus,
                    mail_relay,
                    Facts(database, mail, bus, mail_relay),
                    faults,
                    transactions,
                    attempts,
                    onlooker,
                )
