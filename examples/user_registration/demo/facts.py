"""What there is, looked up from outside: database rows, mailboxes, dead letters."""

import json
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

from events.integration import DeadLetter, OutboxRelay
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.outbox import ParkedRow
from examples.user_registration.demo.mail_server import MailServer
from examples.user_registration.email_service.presentation.consumer import NAME as EMAIL_SERVICE


class Database:
    """The files, as others see them by a connection of their own: committed, or not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def users(self, email: str) -> int:
        with self._open() as connection:
            query = "SELECT count(*) FROM users WHERE email = ?"
            count: int = connection.execute(query, [email]).fetchone()[0]
            return count

    def user_count(self) -> int:
        with self._open() as connection:
            count: int = connection.execute("SELECT count(*) FROM users").fetchone()[0]
            return count

    def outbox(self) -> set[str]:
        """Return the ids of the events that wait."""
        with self._open() as connection:
            return {row[0] for row in connection.execute("SELECT event_id FROM outbox")}

    def on_the_bus(self) -> int:
        """Return how many events wait for a consumer, or are being handled by it."""
        with self._open("events") as connection:
            count: int = connection.execute("SELECT count(*) FROM bus").fetchone()[0]
            return count

    @contextmanager
    def _open(self, name: str = "user_service") -> Generator[sqlite3.Connection]:
        uri = (self.folder / f"{name}.sqlite3").as_uri()
        with closing(sqlite3.connect(f"{uri}?mode=ro", uri=True)) as connection:
            yield connection


class Facts:
    def __init__(
        self,
        database: Database,
        mail: MailServer,
        bus: TransportIntegrationEventBus,
        mail_relay: OutboxRelay,
    ) -> None:
        self.database = database
        self._mail_relay = mail_relay
        self._mail = mail
        self._bus = bus

    async def users(self, email: str) -> int:
        return self.database.users(email)

    async def outbox(self) -> int:
        return len(self.database.outbox())

    async def on_the_bus(self) -> int:
        return self.database.on_the_bus()

    async def mails(self, email: str) -> int:
        return len(self._mail.mails(email))

    async def dead_letters(self) -> dict[str, DeadLetter]:
        """Return those of the email service by the address of their user."""
        letters = await self._bus.dead_letters(EMAIL_SERVICE)
        return {json.loads(letter.message.body)["email"]: letter for letter in letters}

    async def parked(self) -> dict[str, ParkedRow]:
        """Return the mails that the mail server does not take, by their recipient."""
        rows = await self._mail_relay.parked()
        return {json.loads(row.message.body)["recipient"]: row for row in rows}

    async def parked_attempts(self) -> dict[str, int]:
        return {email: row.attempts for email, row in (await self.parked()).items()}

    async def dead_letter_reasons(self) -> dict[str, tuple[str, int]]:
        letters = await self.dead_letters()
        return {email: (letter.reason, letter.attempts) for email, letter in letters.items()}
