from events.domain import DomainEventDispatcher
from examples.user_registration.user_service.application.ports import (
    PasswordHasher,
    Transaction,
    Users,
)
from examples.user_registration.user_service.domain.email import email_address
from examples.user_registration.user_service.domain.user import User


class RegisterUser:
    """Store a new user together with everything that follows from it, or nothing at all."""

    def __init__(
        self,
        users: Users,
        passwords: PasswordHasher,
        dispatcher: DomainEventDispatcher,
        transaction: Transaction,
    ) -> None:
        self._users = users
        self._passwords = passwords
        self._dispatcher = dispatcher
        self._transaction = transaction

    async def __call__(self, email: str, password: str) -> User:
        email = email_address(email)
        password_hash = await self._passwords.hash(password)  # slow, so before the transaction
        async with self._dispatcher as dispatcher:
            user = User.register(email, password_hash)
            dispatcher.from_entity(user)  # handled at the end of the block, after the user is added
            await self._users.add(user)
        # The handlers have run, in this transaction; had one failed, we would not be here.
        await self._transaction.commit()
        return user
