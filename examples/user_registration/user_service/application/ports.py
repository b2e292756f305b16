from typing import Protocol

from examples.user_registration.user_service.domain.user import User


class EmailTakenError(Exception):
    def __init__(self, email: str) -> None:
        super().__init__(f"{email} is registered already")


class PasswordHasher(Protocol):
    async def hash(self, password: str) -> str:
        """Return what can be stored; it takes a while, and lets others run meanwhile."""
        ...


class Users(Protocol):
    async def add(self, user: User) -> None:
        """Store the user in the current transaction; raise `EmailTakenError`."""


class Transaction(Protocol):
    async def commit(self) -> None:
        """Keep what was done. Without it, nothing was."""
