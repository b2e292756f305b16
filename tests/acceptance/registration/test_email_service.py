"""The email service on the in-memory bus, with a real SMTP conversation."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from dishka import AsyncContainer

from events.errors import BusUnavailableError, SendOutcomeUnknownError, UnsupportedByBusError
from events.integration import (
    EventHandlerConsumer,
    IntegrationEventBusRegistration,
    Message,
    Middleware,
    OutboxRelay,
    RetryPolicy,
    correlate,
)
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.implementation.memory import InMemoryIntegrationEventBus, InMemoryTransport
from events.testing import eventually, until_quiet
from examples.user_registration import email_service
from examples.user_registration.chassis.migrations import upgrade
from examples.user_registration.contracts import USERS, UserRegisteredV1
from examples.user_registration.demo.mail_server import MailServer
from examples.user_registration.email_service.application.mail import MAILS, MailQueuedV1
from examples.user_registration.email_service.container import create_container
from examples.user_registration.email_service.infrastructure.smtp import (
    MailError,
    MailRefusedError,
    SmtpTransport,
)
from examples.user_registration.email_service.settings import EmailServiceSettings
from tests.acceptance.registration.scenario import Databases

ADA = "ada@example.com"


def registered(email: str = ADA) -> UserRegisteredV1:
    return UserRegisteredV1(user_id=uuid4(), email=email, registered_at=datetime.now(UTC))


def nobody(_answer: object) -> None:
    pass


@dataclass
class Service:
    bus: InMemoryIntegrationEventBus
    relay: OutboxRelay
    container: AsyncContainer


@asynccontextmanager
async def service(url: str, port: int, **settings: object) -> AsyncGenerator[Service]:
    def make_bus(
        registrations: Iterable[IntegrationEventBusRegistration],
        /,
        *,
        middlewares: Sequence[Middleware],
    ) -> InMemoryIntegrationEventBus:
        return InMemoryIntegrationEventBus(registrations, middlewares=middlewares)

    await upgrade(email_service.ALEMBIC, url)
    values = {"mail_retry_delay": 0.05, "event_retry_delay": 0.01, **settings}
    container = create_container(
        EmailServiceSettings(database_url=url, smtp_host="127.0.0.1", smtp_port=port).model_copy(
            update=values
        ),
        make_bus,
    )
    try:
        bus = await container.get(TransportIntegrationEventBus)
        assert isinstance(bus, InMemoryIntegrationEventBus)
        yield Service(bus, await container.get(OutboxRelay), container)
    finally:
        await container.close()


async def test_an_event_that_comes_twice_is_one_mail(databases: Databases) -> None:
    async with (
        MailServer(nobody) as mail,
        service(databases.email, mail.port) as running,
    ):
        event, event_id = registered(), str(uuid4())
        for _ in range(3):
            await running.bus.send(USERS, event, id=event_id)
        await running.bus.send(USERS, registered("grace@example.com"))
        await until_quiet(running.bus)
        await running.relay.drain()

        assert {to: len(mails) for to, mails in mail.mailboxes.items()} == {
            ADA: 1,
            "grace@example.com": 1,
        }
        assert mail.copies == 0


async def test_a_mail_server_that_is_away_is_waited_for(databases: Databases) -> None:
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        port = nobody_listens.getsockname()[1]
        async with service(databases.email, port) as running:
            await running.bus.send(USERS, registered())
            await eventually(lambda: running.relay.health().outage)

            outage = running.relay.health().outage
            assert outage is not None
            assert f"SmtpTransport(127.0.0.1:{port})" in outage
            assert await running.relay.parked() == []
            assert (await running.relay.stats()).pending == 1

    async with MailServer(nobody) as mail, service(databases.email, mail.port) as running:
        await eventually(lambda: len(mail.mails(ADA)) == 1)
        await eventually(lambda: running.relay.health().healthy)


@pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
async def test_what_is_refused_for_now_is_tried_and_then_parked(databases: Databases) -> None:
    async with (
        MailServer(nobody) as mail,
        service(databases.email, mail.port, mail_attempts=3) as running,
    ):
        mail.refuse("grace@example.com", "451 busy", times=2)
        mail.refuse(ADA, "451 busy")
        await running.bus.send(USERS, registered("grace@example.com"))
        await running.bus.send(USERS, registered())
        await eventually(lambda: len(mail.mails("grace@example.com")) == 1)

        async def is_parked() -> bool:
            return len(await running.relay.parked()) == 1

        await eventually(is_parked)
        (row,) = await running.relay.parked()
        assert row.attempts == 3
        assert row.error == "MailError: 451 busy"
        assert mail.mails(ADA) == []


async def publish(transport: SmtpTransport, message: Message) -> None:
    await transport.publish(message)


async def message(email: str = ADA) -> Message:
    """Return a mail as the outbox keeps it."""
    seen: list[Message] = []

    class Keeps(InMemoryTransport):
        def publish(self, message: Message) -> asyncio.Future[None]:
            seen.append(message)
            return super().publish(message)

    mail = MailQueuedV1(recipient=email, subject="Grüße", text="Hej\n", queued_at=datetime.now(UTC))
    async with TransportIntegrationEventBus(Keeps()) as bus:
        with correlate("registration-1"):
            await bus.send(MAILS, mail)
    return seen[0]


def transport(port: int) -> SmtpTransport:
    return SmtpTransport(
        EmailServiceSettings(
            smtp_host="127.0.0.1", smtp_port=port, smtp_timeout=60.0, relay_lease=90.0
        )
    )


async def test_a_mail_is_the_same_on_each_attempt() -> None:
    async with MailServer(nobody) as server:
        sent = await message()
        for _ in range(2):
            await publish(transport(server.port), sent)

        (mail,) = server.mails(ADA)
        assert server.copies == 1, "a mailbox knows the second by its Message-ID"
        assert mail["Message-ID"] == f"<{sent.id}@shop.example>"
        assert mail["Subject"] == "Grüße"
        assert mail["From"] == "welcome@shop.example"
        assert mail["Date"].datetime.tzinfo is not None
        assert mail.get_content().split() == ["Hej"]


@pytest.mark.parametrize(
    ("reply", "error"), [("451 busy", MailError), ("550 unknown", MailRefusedError)]
)
async def test_an_answer_that_is_no_yes_is_the_mails_fault(
    reply: str, error: type[Exception]
) -> None:
    async with MailServer(nobody) as server:
        server.refuse(ADA, reply)
        with pytest.raises(error, match=f"^{reply}$") as raised:
            await publish(transport(server.port), await message())
        assert type(raised.value) is error


async def test_without_a_server_nothing_was_sent() -> None:
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        with pytest.raises(BusUnavailableError, match="is not available"):
            await publish(transport(nobody_listens.getsockname()[1]), await message())


class HangsUp(MailServer):
    """Takes the mail, and is gone before it says so."""

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's
        answer = await super().handle_DATA(server, session, envelope)
        assert isinstance(server.transport, asyncio.WriteTransport)
        server.transport.abort()
        return answer


async def test_a_server_that_hangs_up_may_have_taken_it() -> None:
    async with HangsUp(nobody) as server:
        with pytest.raises(SendOutcomeUnknownError, match="may or may not"):
            await publish(transport(server.port), await message())
        assert len(server.mails(ADA)) == 1


async def test_nobody_consumes_from_a_mail_server() -> None:
    consumer = EventHandlerConsumer("reader", {MailQueuedV1: _ignore})
    registration = IntegrationEventBusRegistration(
        consumer, MAILS, [MailQueuedV1], retry=RetryPolicy(attempts=1)
    )
    with pytest.raises(UnsupportedByBusError, match="read your mail with a mail client"):
        async with TransportIntegrationEventBus(transport(1), [registration]):
            pass


async def _ignore(event: MailQueuedV1) -> None:
    pass
