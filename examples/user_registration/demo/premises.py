"""What the demo's processes have in common: the files in one folder, and how they are used."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dishka import Provider

from events.domain import DomainEventHandler
from events.integration import Middleware
from examples.user_registration.email_service.settings import EmailServiceSettings
from examples.user_registration.embedded import Containers, create_containers, migrate
from examples.user_registration.user_service.settings import UserServiceSettings

ATTEMPTS = 3
SHORT_LEASE = 2.0  # seconds for which nobody else has what the process that is killed was at
_LEASE = 20.0  # seconds; the others end in order, and a busy machine may let them stand still
_RETRY_DELAY = 0.15  # seconds, three times as long after each attempt


@dataclass(frozen=True)
class Premises:
    """A database for each service and one for the bus, which outlive who uses them."""

    folder: Path
    smtp_port: int
    lease: float = _LEASE

    @property
    def users(self) -> UserServiceSettings:
        return UserServiceSettings(
            database_url=f"sqlite:///{self.folder}/user_service.sqlite3",
            relay_lease=self.lease,
            argon2_time_cost=1,  # what is shown is not how passwords are hashed
            argon2_memory_kib=1024,
        )

    @property
    def email(self) -> EmailServiceSettings:
        return EmailServiceSettings(
            database_url=f"sqlite:///{self.folder}/email_service.sqlite3",
            relay_lease=self.lease,
            smtp_host="127.0.0.1",
            smtp_port=self.smtp_port,
            smtp_timeout=self.lease / 2,
            smtp_username=None,  # whatever the environment has for another mail server
            smtp_password=None,
            event_attempts=ATTEMPTS,
            event_retry_delay=_RETRY_DELAY,
            mail_attempts=ATTEMPTS,
            mail_retry_delay=_RETRY_DELAY,
        )

    @property
    def events_url(self) -> str:
        return f"sqlite:///{self.folder}/events.sqlite3"

    async def migrate(self) -> None:
        await migrate(self.users, self.email, self.events_url)

    def containers(
        self,
        *,
        overrides: Sequence[Provider] = (),
        more_handlers: Sequence[type[DomainEventHandler[Any]]] = (),
        middlewares: Sequence[Middleware] = (),
    ) -> Containers:
        return create_containers(
            self.users,
            self.email,
            self.events_url,
            lease=self.lease,
            overrides=overrides,
            more_handlers=more_handlers,
            middlewares=middlewares,
        )
