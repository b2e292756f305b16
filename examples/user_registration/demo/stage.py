"""Everything up and running on loopback, and the parts of it that the scenes use."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from uuid import uuid4

import httpx
from dishka import Provider
from sqlalchemy.ext.asyncio import AsyncEngine

from events.integration import IntegrationEventBusRegistration, OutboxRelay
from events.integration.implementation.base import TransportIntegrationEventBus
from events.sqlalchemy import SQLAlchemyBus
from examples.user_registration.chassis.http import serving
from examples.user_registration.contracts import USERS, UserRegisteredV1
from examples.user_registration.demo.facts import Database, Facts
from examples.user_registration.demo.faults import FailOnDemand, Faults, FaultsProvider
from examples.user_registration.demo.mail_server import MailServer
from examples.user_registration.demo.premises import Premises
from examples.user_registration.demo.timeline import Timeline
from examples.user_registration.demo.watch import (
    Onlooker,
    WatchAttempts,
    WatchTransactions,
)
from examples.user_registration.embedded import create_app
from examples.user_registration.user_service.providers import SOURCE

_ANSWER_TIMEOUT = 60.0  # seconds, on a busy machine


@dataclass(frozen=True)
class Stage:
    timeline: Timeline
    http: httpx.AsyncClient
    mail: MailServer
    bus: TransportIntegrationEventBus
    users_bus: (
        SQLAlchemyBus  # which sends as the user service does: the source tells events apart, too
    )
    mail_relay: OutboxRelay
    facts: Facts
    faults: Faults
    transactions: WatchTransactions
    attempts: WatchAttempts
    onlooker: Onlooker

    def introduce(self) -> None:
        self.timeline.say("demo", f"HTTP on {self.http.base_url}, SMTP on port {self.mail.port}")
        self.timeline.say("demo", f"SQLite in {self.facts.database.folder}")

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
    timeline: Timeline,
    premises: Premises,
    mail: MailServer,
    overrides: Sequence[Provider] = (),
    port: int = 0,
) -> AsyncGenerator[Stage]:
    database = Database(premises.folder)
    faults, attempts, onlooker = Faults(timeline), WatchAttempts(timeline), Onlooker(timeline)
    containers = premises.containers(
        overrides=[FaultsProvider(faults), *overrides],
        more_handlers=[FailOnDemand],
        middlewares=[attempts, faults.fail_email_on_demand],
    )
    registration = IntegrationEventBusRegistration(onlooker, USERS, [UserRegisteredV1])
    async with (
        SQLAlchemyBus(containers.events, [registration], source=SOURCE) as users_bus,
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
