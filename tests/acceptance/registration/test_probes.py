"""What the probes of all three processes say while the broker is away, and that nobody is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from events.testing import eventually
from examples.user_registration import email_service, user_service
from examples.user_registration.chassis.migrations import upgrade
from examples.user_registration.demo.mail_server import MailServer
from examples.user_registration.demo_rabbitmq.processes import running, services
from tests.acceptance.registration.scenario import environment, sqlite
from tests.brokers.rabbitmq_server import RabbitMQServer

TIMEOUT = 120.0


async def test_without_a_broker_people_register_and_two_processes_are_not_ready(
    broker: RabbitMQServer, tmp_path: Path
) -> None:
    databases = sqlite(tmp_path)
    await upgrade(user_service.ALEMBIC, databases.users)
    await upgrade(email_service.ALEMBIC, databases.email)
    log: list[str] = []
    async with (
        MailServer(lambda _answer: None) as mail,
        httpx.AsyncClient(timeout=60, trust_env=False) as http,
    ):
        settings = environment(broker.url, databases, mail.port)
        users, relay, email = (
            f"http://127.0.0.1:{settings[port]}"
            for port in (
                "USER_SERVICE_HTTP_PORT",
                "USER_SERVICE_RELAY_PROBE_PORT",
                "EMAIL_SERVICE_PROBE_PORT",
            )
        )

        async def ready(url: str, expected: dict[str, str]) -> bool:
            answer = await http.get(f"{url}/readyz")
            found: dict[str, str] = answer.json()
            assert (answer.status_code == 200) == (set(found.values()) == {"ok"})
            assert expected.items() <= found.items(), found
            return True

        those = services(settings, tmp_path, lambda name, line: log.append(f"{name}: {line}"))
        async with running(those):
            # Not killed: RabbitMQ 3.10 may lose hold of a quorum queue that it made a moment ago.
            await asyncio.to_thread(broker.ctl, "stop_app")
            for url, expected in (
                (relay, {"broker": "not connected"}),
                (email, {"consumer": "not connected", "mail": "ok"}),
                (users, {"database": "ok"}),
            ):
                await eventually(lambda: ready(url, expected), TIMEOUT, saw=lambda: log)  # noqa: B023
                assert (await http.get(f"{url}/livez")).text == "ok"
            person = {"email": "ada@example.com", "password": "correct horse"}
            assert (await http.post(f"{users}/users", json=person)).status_code == 201

            await asyncio.to_thread(broker.ctl, "start_app")
            await eventually(
                lambda: len(mail.mails("ada@example.com")) == 1, TIMEOUT, saw=lambda: log
            )
            await eventually(lambda: ready(relay, {"relay": "ok", "broker": "ok"}), TIMEOUT)
            await eventually(lambda: ready(email, {"consumer": "ok", "mail": "ok"}), TIMEOUT)
