from collections.abc import AsyncIterator

from dishka import AnyOf, Provider, Scope, provide  # pyright: ignore[reportUnknownVariableType]
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from events.integration import Outbox
from events.integration.implementation.sqlalchemy import SQLAlchemyOutbox
from examples.user_registration.settings import Settings
from examples.user_registration.user_service.application.announce_user import AnnounceUser
from examples.user_registration.user_service.application.ports import Transaction, Users
from examples.user_registration.user_service.application.register_user import RegisterUser
from examples.user_registration.user_service.infrastructure.database import database
from examples.user_registration.user_service.infrastructure.users import SQLAlchemyUsers

DOMAIN_EVENT_HANDLERS = [AnnounceUser]


class UserServiceProvider(Provider):
    scope = Scope.REQUEST

    register_user = provide(RegisterUser)
    users = provide(SQLAlchemyUsers, provides=Users)

    @provide(scope=Scope.APP)
    async def engine(self, settings: Settings) -> AsyncIterator[AsyncEngine]:
        async with database(settings.database_url) as engine:
            yield engine

    @provide(scope=Scope.APP)
    def sessions(self, engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
        return async_sessionmaker(engine, expire_on_commit=False)

    @provide
    async def session(
        self, sessions: async_sessionmaker[AsyncSession]
    ) -> AsyncIterator[AnyOf[AsyncSession, Transaction]]:
        async with sessions() as session:  # rolls back what was not committed
            yield session

    @provide
    def outbox(self, session: AsyncSession) -> Outbox:
        return SQLAlchemyOutbox(session)
