from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from examples.user_registration.user_service.application.ports import EmailTakenError
from examples.user_registration.user_service.domain.user import User


class SQLAlchemyUsers:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, user: User) -> None:
        self._session.add(user)
        try:
            # Now, so that a taken address is found before anybody acts on the registration.
            await self._session.flush()
        except IntegrityError as error:
            raise EmailTakenError(user.email) from error
