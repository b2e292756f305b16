"""What the services tell each other: a package of its own, so that neither depends on the other."""

from examples.user_registration.contracts.events import UserRegisteredV1
from examples.user_registration.contracts.topics import USERS

__all__ = ["USERS", "UserRegisteredV1"]
