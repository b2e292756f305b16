"""A broker, a mail server, two databases and three processes, and what the scenes need of them."""

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import httpx

from examples.user_registration import email_service, user_service
from examples.user_registration.chassis.migrations import upgrade
from examples.user_registration.demo.mail_server import MailServer
from examples.user_registration.demo.timeline import Timeline
from examples.user_registration.demo.watch import say_answer
from examples.user_registration.demo_rabbitmq.broker import broker
from examples.user_registration.demo_rabbitmq.log import show
from examples.user_registration.demo_rabbitmq.processes import Services, running, services
from tests.servers import free_port


@dataclass(frozen=True)
class Stage:
    timeline: Timeline
    http: httpx.AsyncClient
    mail: MailServer
    services: Services
    database: Path

    async def register(self, email: str) -> int:
        """Ask the user service to register the address, and return the status."""
        correlation_id = str(uuid4())
        self.timeline.recognise(email, correlation_id)
        self.timeline.say("http", f"POST /users {email}", correlation_id)
        response = await self.http.post(
            "/users",
            json={"email": email, "password": "correct horse battery staple"},
            headers={"X-Correlation-ID": correlation_id},
        )
        status = HTTPStatus(response.status_code)
        self.timeline.say("http", f"{status.value} {status.phrase}", correlation_id)
        return status.value

    async def mails(self, email: str) -> int:
        return len(self.mail.mails(email))

    async def outbox(self) -> int:
        """Return how many events wait for the relay."""
        with closing(sqlite3.connect(f"{self.database.as_uri()}?mode=ro", uri=True)) as connection:
            count: int = connection.execute("SELECT count(*) FROM outbox").fetchone()[0]
            return count


@asynccontextmanager
async def stage(timeline: Timeline) -> AsyncGenerator[Stage]:
    with TemporaryDirectory(prefix="user-registration-") as folder:
        database = Path(folder) / "user_service.sqlite3"
        async with (
            broker(partial(timeline.say, "demo")) as url,
            MailServer(partial(say_answer, timeline)) as mail,
        ):
            timeline.say("demo", f"SMTP on port {mail.port}; SQLite in {folder}")
            environment = {
                "RABBITMQ_URL": url,
                "LOG_FORMAT": "json",
                "LOG_LEVEL": "INFO",
                "USER_SERVICE_DATABASE_URL": f"sqlite:///{database}",
                "USER_SERVICE_HTTP_PORT": str(free_port()),
                "USER_SERVICE_RELAY_PROBE_PORT": str(free_port()),
                "USER_SERVICE_RELAY_POLL_INTERVAL": "0.1",
                "USER_SERVICE_RELAY_LEASE": "2",  # a dead relay's work is taken over after this
                "EMAIL_SERVICE_DATABASE_URL": f"sqlite:///{folder}/email_service.sqlite3",
                "EMAIL_SERVICE_PROBE_PORT": str(free_port()),
                # A mail that took longer would be sent once more, on a busy machine without need.
                "EMAIL_SERVICE_RELAY_LEASE": "7",
                "EMAIL_SERVICE_SMTP_TIMEOUT": "6",
                "EMAIL_SERVICE_SMTP_HOST": "127.0.0.1",
                "EMAIL_SERVICE_SMTP_PORT": str(mail.port),
            }
            await upgrade(user_service.ALEMBIC, environment["USER_SERVICE_DATABASE_URL"])
            await upgrade(email_service.ALEMBIC, environment["EMAIL_SERVICE_DATABASE_URL"])
            timeline.say("demo", "the tables are created; three processes start")
            those = services(environment, Path(folder), partial(show, timeline))
            base_url = f"http://127.0.0.1:{environment['USER_SERVICE_HTTP_PORT']}"
            async with (
                running(those),
                httpx.AsyncClient(base_url=base_url, timeout=60, trust_env=False) as http,
            ):
                for service in those:
                    timeline.say("demo", f"{service.name} is ready, pid {service.pid}")
                yield Stage(timeline, http, mail, those, database)
