from collections.abc import AsyncIterator

from dishka import AnyOf, Provider, Scope, from_context, provide  # pyright: ignore[reportUnknownVariableType]
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from events.integration import Outbox
from events.sqlalchemy import SQLAlchemyOutbox
from examples.user_registration.chassis.database import open_database
from examples.user_registration.user_service.application.announce_user import AnnounceUser
from examples.user_registration.user_service.application.ports import (
    PasswordHasher,
    Transaction,
    Users,
)
from examples.user_registration.user_service.application.register_user import RegisterUser
from examples.user_registration.user_service.infrastructure.passwords import Argon2PasswordHasher
from examples.user_registration.user_service.infrastructure.users import SQLAlchemyUsers
from examples.user_registration.user_service.settings import UserServiceSettings

DOMAIN_EVENT_HANDLERS = [AnnounceUser]

SOURCE = "/user-service"


class UserServiceProvider(Provider):
    scope = Scope.REQUEST

    settings = from_context(UserServiceSettings, scope=Scope.APP)
    register_user = provide(RegisterUser)
    users = provide(SQLAlchemyUsers, provides=Users)

    @provide(scope=Scope.APP)
    async def engine(self, settings: UserServiceSettings) -> AsyncIterator[AsyncEngine]:
        async with open_database(settings.database_url) as engine:
            yield engine

    @provide(scope=Scope.APP)
    def sessions(self, engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
        return async_sessionmaker(engine, expire_on_commit=False)

    @provide(scope=Scope.APP)
    def passwords(self, settings: UserServiceSettings) -> PasswordHasher:
        return Argon2PasswordHasher(
            time_cost=settings.argon2_time_cost, memory_kib=settings.argon2_memory_kib
        )

    @provide
    async def session(
        self, sessions: async_sessionmaker[AsyncSession]
    ) -> AsyncIterator[AnyOf[AsyncSession, Transaction]]:
        async with sessions() as session:  # rolls back what was not committed
            yield session

    @provide
    def outbox(self, session: AsyncSession) -> Outbox:
        return SQLAlchemyOutbox(session, source=SOURCE)
