from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from examples.user_registration.user_service.application.ports import EmailTakenError
from examples.user_registration.user_service.domain.user import User
from examples.user_registration.user_service.infrastructure.tables import EMAIL_IS_UNIQUE


class SQLAlchemyUsers:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, user: User) -> None:
        self._session.add(user)
        try:
            # Now, so that a taken address is found before anybody acts on the registration. Of two
            # who ask for one address at once, the database lets one wait for the other's commit.
            await self._session.flush()
        except IntegrityError as error:
            reason = str(error.orig)
            # PostgreSQL names the constraint, SQLite its columns.
            if EMAIL_IS_UNIQUE in reason or "users.email" in reason:
                raise EmailTakenError(user.email) from error
            raise
