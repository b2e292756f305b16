from collections.abc import AsyncIterator

from dishka import Provider, Scope, from_context, provide  # pyright: ignore[reportUnknownVariableType]
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from events.integration import Outbox, OutboxRelay, RetryPolicy
from events.integration.implementation.base import TransportIntegrationEventBus
from events.sqlalchemy import SQLAlchemyOutbox, SQLAlchemyOutboxStore
from examples.user_registration.chassis.database import open_database
from examples.user_registration.email_service.infrastructure.smtp import (
    MailRefusedError,
    SmtpTransport,
)
from examples.user_registration.email_service.infrastructure.tables import mails
from examples.user_registration.email_service.settings import EmailServiceSettings

SOURCE = "/email-service"


class EmailServiceProvider(Provider):
    scope = Scope.APP

    settings = from_context(EmailServiceSettings, scope=Scope.APP)

    @provide
    async def engine(self, settings: EmailServiceSettings) -> AsyncIterator[AsyncEngine]:
        async with open_database(settings.database_url) as engine:
            yield engine

    @provide
    def sessions(self, engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
        return async_sessionmaker(engine, expire_on_commit=False)

    @provide(scope=Scope.REQUEST)
    async def session(
        self, sessions: async_sessionmaker[AsyncSession]
    ) -> AsyncIterator[AsyncSession]:
        async with sessions() as session:  # the inbox commits it
            yield session

    @provide(scope=Scope.REQUEST)
    def mails(self, session: AsyncSession) -> Outbox:
        return SQLAlchemyOutbox(session, table=mails, source=SOURCE)

    @provide
    async def mail_relay(
        self, engine: AsyncEngine, settings: EmailServiceSettings
    ) -> AsyncIterator[OutboxRelay]:
        """Provide what sends the mails, running until the container closes."""
        retry = RetryPolicy(
            attempts=settings.mail_attempts,
            delay=settings.mail_retry_delay,
            dead_letter_on=(MailRefusedError,),
        )
        transport = SmtpTransport(settings)
        async with (
            TransportIntegrationEventBus(transport, send_timeout=settings.smtp_timeout) as server,
            OutboxRelay(
                SQLAlchemyOutboxStore(engine, table=mails),
                server,
                batch=settings.mails_at_once,
                batches_in_flight=1,  # what is in flight is sent twice if we are killed
                lease=settings.relay_lease,
                retry=retry,
            ) as relay,
        ):
            yield relay
