from email.message import EmailMessage
from typing import Protocol


class MailError(Exception):
    """The mail was not taken; it may be another time."""


class MailRefusedError(MailError):
    """The mail will never be taken as it is: trying again is of no use."""


class Mailer(Protocol):
    async def send(self, mail: EmailMessage) -> None:
        """Return when the mail was taken; raise `MailError`."""
