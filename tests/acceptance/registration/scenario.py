"""Registrations while processes and the broker die, and their outcome."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import httpx
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from events.integration import (
    Consumer,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    current_delivery,
)
from events.integration.implementation.rabbitmq import RabbitMQIntegrationEventBus
from events.testing import eventually
from examples.user_registration import email_service, user_service
from examples.user_registration.chassis.database import open_database
from examples.user_registration.chassis.migrations import upgrade
from examples.user_registration.contracts import USERS, UserRegisteredV1
from examples.user_registration.demo.mail_server import MailServer
from examples.user_registration.demo_rabbitmq.processes import running, services
from examples.user_registration.email_service.infrastructure.tables import inbox, mails
from examples.user_registration.email_service.presentation.consumer import NAME
from examples.user_registration.user_service.infrastructure.tables import outbox, users
from tests.brokers.rabbitmq_server import Client, RabbitMQServer
from tests.servers import free_port

Victim: TypeAlias = Literal["relay", "email", "broker"]

MAILS_AT_ONCE = 4
_AT_ONCE = 8  # requests
_COPIES = 20  # events that are sent once more in the end, under their ids
_SOURCE = "/user-service"  # theirs, as the source is part of what tells events apart
_STEP = 120.0  # seconds in which a step must have come about


@dataclass(frozen=True)
class Databases:
    users: str
    email: str


@dataclass
class Outcome:
    """The state when nothing happens any more. The log has each line of each process."""

    statuses: Counter[int] = field(default_factory=Counter[int])
    users: int = 0
    heard: int = 0
    mails: dict[str, int] = field(default_factory=dict[str, int])
    copies: int = 0
    kills: Counter[str] = field(default_factory=Counter[str])
    left: dict[str, int] = field(default_factory=dict[str, int])
    log: list[str] = field(default_factory=list[str])


class Onlooker(Consumer):
    """Another service that receives the events about users, and records their ids."""

    def __init__(self) -> None:
        super().__init__("registration.onlooker")
        self.heard: dict[str, UserRegisteredV1] = {}

    async def on_event(self, event: IntegrationEvent) -> None:
        delivery = current_delivery()
        assert delivery is not None
        assert isinstance(event, UserRegisteredV1)
        self.heard[delivery.id] = event


class Scenario:
    def __init__(
        self,
        broker: RabbitMQServer,
        databases: Databases,
        folder: Path,
        *,
        seed: int,
        timeout: float = _STEP,
        **programs: list[str],
    ) -> None:
        self._broker = broker
        self._databases = databases
        self._folder = folder  # where the processes run
        self._chance = random.Random(seed)
        self._timeout = timeout
        self._outcome = Outcome()
        self._mail = MailServer(lambda _answer: None)
        self._programs = programs
        self._onlooker = Onlooker()
        self._registered = 0

    async def play(self, registrations: int, victims: Sequence[Victim]) -> Outcome:
        """Register so many, kill each of the victims once meanwhile, and wait until all is quiet."""
        await upgrade(user_service.ALEMBIC, self._databases.users)
        await upgrade(email_service.ALEMBIC, self._databases.email)
        seen = IntegrationEventBusRegistration(self._onlooker, USERS, [UserRegisteredV1])
        async with (
            self._mail,
            RabbitMQIntegrationEventBus(
                self._broker.url, [seen], source=_SOURCE, connect_timeout=60, startup_timeout=240
            ) as bus,
            open_database(self._databases.users) as users_engine,
            open_database(self._databases.email) as email_engine,
        ):
            settings = environment(self._broker.url, self._databases, self._mail.port)
            self._services = services(settings, self._folder, self._note, **self._programs)
            base_url = f"http://127.0.0.1:{settings['USER_SERVICE_HTTP_PORT']}"
            async with (
                running(self._services),
                httpx.AsyncClient(base_url=base_url, timeout=120, trust_env=False) as http,
            ):
                cuts = [registrations * n // len(victims) for n in range(len(victims) + 1)]
                for victim, start, end in zip(victims, cuts, cuts[1:], strict=False):
                    await self._round(http, victim, range(start, end))
                await self._see(lambda: len(self._mail.mailboxes) >= registrations)
                await self._see(lambda: len(self._onlooker.heard) >= registrations)
                for event_id, event in list(self._onlooker.heard.items())[:_COPIES]:
                    await bus.send(USERS, event, id=event_id)
                await self._quiet(users_engine, email_engine)
                for service in self._services:
                    assert await service.stop() == 0, f"{service.name} did not end well"
            await self._look(users_engine, email_engine)
        return self._outcome

    async def _round(self, http: httpx.AsyncClient, victim: Victim, numbers: range) -> None:
        """Kill the victim at some moment in these registrations, and start it again."""
        room = asyncio.Semaphore(_AT_ONCE)

        async def register(number: int) -> None:
            async with room:
                answer = await http.post(
                    "/users",
                    json={"email": f"user-{number}@example.com", "password": "correct horse"},
                )
            self._outcome.statuses[answer.status_code] += 1
            self._registered += 1

        if victim == "broker":
            await self._see(self._broker.knows_its_quorum_queues)
        async with asyncio.TaskGroup() as group:
            for number in numbers:
                group.create_task(register(number))
            if self._chance.random() < 0.5:
                registered = self._registered + self._chance.randrange(1, len(numbers))
                await self._see(lambda: self._registered >= registered)
            else:
                arrived = len(self._mail.mailboxes) + self._chance.randrange(1, len(numbers))
                await self._see(lambda: len(self._mail.mailboxes) >= arrived)
            await self._kill_and_start(victim)

    async def _kill_and_start(self, victim: Victim) -> None:
        self._outcome.kills[victim] += 1
        self._note("scenario", f"kill -9 {victim}, after {self._registered} registrations")
        if victim == "broker":
            await asyncio.to_thread(self._broker.restart)
        else:
            service = getattr(self._services, victim)
            await service.kill()
            await service.start()
        self._note("scenario", f"{victim} is back, after {self._registered} registrations")

    async def _quiet(self, users_engine: AsyncEngine, email_engine: AsyncEngine) -> None:
        async def nothing_waits() -> bool:
            await self._look(users_engine, email_engine)
            if any(self._outcome.left.values()):
                return False
            # What a consumer has not acknowledged is in no count of a queue.
            channels = await asyncio.to_thread(
                self._broker.ctl, "list_channels", "messages_unacknowledged"
            )
            return not any(int(line) for line in channels.split() if line.isdecimal())

        await self._see(nothing_waits)

    async def _look(self, users_engine: AsyncEngine, email_engine: AsyncEngine) -> None:
        outcome = self._outcome
        async with users_engine.connect() as connection:
            outcome.users = (
                await connection.scalars(select(func.count()).select_from(users))
            ).one()
            count = select(func.count()).select_from(outbox)
            outcome.left["outbox"] = (await connection.scalars(count)).one()
        async with email_engine.connect() as connection:
            outcome.heard = (
                await connection.scalars(select(func.count()).select_from(inbox))
            ).one()
            count = select(func.count()).select_from(mails)
            outcome.left["mails"] = (await connection.scalars(count)).one()
            parked = await connection.scalars(text("SELECT count(*) FROM mails_parked"))
            outcome.left["parked mails"] = parked.one()
        with Client(self._broker.url) as client:
            for queue in (
                f"{NAME}@{USERS.name}",
                f"{NAME}@{USERS.name}:quarantine",
                f"{NAME}:dead",
            ):
                outcome.left[queue] = client.count(queue)
        outcome.mails = {to: len(mails) for to, mails in self._mail.mailboxes.items()}
        outcome.copies = self._mail.copies

    async def _see(self, condition: Callable[[], bool | Awaitable[bool]]) -> None:
        await eventually(condition, self._timeout, saw=lambda: self._outcome.log[-300:])

    def _note(self, who: str, line: str) -> None:
        self._outcome.log.append(f"{who}: {line}")


def environment(broker: str, databases: Databases, smtp_port: int) -> dict[str, str]:
    """Return settings of all three processes, on free ports."""
    return {
        "RABBITMQ_URL": broker,
        "RABBITMQ_CONNECT_TIMEOUT": "60",  # as the machine may be busy
        "LOG_FORMAT": "json",
        "USER_SERVICE_DATABASE_URL": databases.users,
        "USER_SERVICE_HTTP_PORT": str(free_port()),
        "USER_SERVICE_ARGON2_TIME_COST": "1",
        "USER_SERVICE_ARGON2_MEMORY_KIB": "1024",
        "USER_SERVICE_RELAY_PROBE_PORT": str(free_port()),
        "USER_SERVICE_RELAY_POLL_INTERVAL": "0.1",
        "USER_SERVICE_RELAY_LEASE": "2",
        "EMAIL_SERVICE_DATABASE_URL": databases.email,
        "EMAIL_SERVICE_PROBE_PORT": str(free_port()),
        # A mail that took longer is sent once more, and on a busy machine that is no fault: so the
        # copies that are counted are those of the kills.
        "EMAIL_SERVICE_RELAY_LEASE": "7",
        "EMAIL_SERVICE_SMTP_TIMEOUT": "6",
        "EMAIL_SERVICE_SMTP_HOST": "127.0.0.1",
        "EMAIL_SERVICE_SMTP_PORT": str(smtp_port),
        "EMAIL_SERVICE_MAILS_AT_ONCE": str(MAILS_AT_ONCE),
    }


def sqlite(folder: Path) -> Databases:
    return Databases(f"sqlite:///{folder}/users.sqlite3", f"sqlite:///{folder}/email.sqlite3")
