"""A dead letter that an operator redrives, in the traces of three processes."""

from __future__ import annotations

from pathlib import Path

import httpx
from sqlalchemy import text

from events.integration.implementation.rabbitmq import RabbitMQIntegrationEventBus
from events.testing import eventually
from examples.user_registration import email_service, user_service
from examples.user_registration.chassis.database import open_database
from examples.user_registration.chassis.migrations import upgrade
from examples.user_registration.demo.mail_server import MailServer
from examples.user_registration.demo_rabbitmq.processes import (
    EMAIL,
    RELAY,
    USERS,
    running,
    services,
)
from examples.user_registration.email_service.presentation.consumer import NAME
from tests.acceptance.registration.scenario import environment, sqlite
from tests.acceptance.registration.spans import receiving
from tests.acceptance.registration.test_trace import traced
from tests.brokers.rabbitmq_server import RabbitMQServer

PATIENCE = 120.0


async def test_what_is_redriven_links_to_its_creation_in_another_process(
    broker: RabbitMQServer, tmp_path: Path
) -> None:
    databases, log = sqlite(tmp_path), list[str]()
    await upgrade(user_service.ALEMBIC, databases.users)
    await upgrade(email_service.ALEMBIC, databases.email)
    rename = "ALTER TABLE {} RENAME TO {}"
    with receiving() as spans:
        async with (
            MailServer(lambda _answer: None) as mail,
            open_database(databases.email) as engine,
            RabbitMQIntegrationEventBus(
                broker.url, connect_timeout=60, startup_timeout=240
            ) as operator,
        ):
            settings = environment(broker.url, databases, mail.port)
            settings["EMAIL_SERVICE_EVENT_ATTEMPTS"] = "1"
            settings["USER_SERVICE_RELAY_LEASE"] = "30"  # past it, the event would be sent again
            three = services(
                settings,
                tmp_path,
                lambda who, line: log.append(f"{who}: {line}"),
                users=traced(spans.url, "users", USERS),
                relay=traced(spans.url, "relay", RELAY),
                email=traced(spans.url, "email", EMAIL),
            )
            base_url = f"http://127.0.0.1:{settings['USER_SERVICE_HTTP_PORT']}"
            async with (
                running(three),
                httpx.AsyncClient(base_url=base_url, timeout=60, trust_env=False) as http,
            ):
                async with engine.begin() as connection:
                    await connection.execute(text(rename.format("mails", "elsewhere")))
                user = {"email": "ada@example.com", "password": "correct horse"}
                assert (await http.post("/users", json=user)).status_code == 201

                async def dead() -> int:
                    return len(await operator.dead_letters(NAME))

                await eventually(dead, PATIENCE, saw=lambda: log[-50:])
                async with engine.begin() as connection:
                    await connection.execute(text(rename.format("elsewhere", "mails")))
                await operator.redrive(NAME, await operator.dead_letters(NAME))
                await eventually(
                    lambda: len(spans.named("process registration.users", "email")) == 2,
                    PATIENCE,
                    saw=lambda: log[-50:],
                )
                for service in three:
                    assert await service.stop() == 0, f"{service.name} did not end well"

    [created] = spans.named("create registration.users", "users")
    failed, handled = spans.linked_to(created, "process registration.users")
    assert len({created.id[0], failed.id[0], handled.id[0]}) == 3, "each is a trace of its own"
    assert "exception" in failed.happened
    assert not handled.happened
    assert [each.name for each in spans.children_of(handled)] == ["create registration.mails"]
    assert spans.dangling_links == spans.orphans == []
