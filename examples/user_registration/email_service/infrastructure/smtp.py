"""A mail server as the library sees a broker: what it answers 250 to is its responsibility.

So the relay that empties an outbox into a bus sends our mails: it tries again what was refused,
more slowly each time, parks what is refused for good, waits while the server is down, and lets
several processes share the work. A mail has the three outcomes of every `send`:

    250                                          sent
    no connection, or turned away at the door    not sent, and says nothing about this mail
    any other answer                             refused: this mail is tried again, or parked
    no answer                                    nobody knows: sent again, under the same Message-ID
"""

import json
from collections.abc import Awaitable
from contextlib import suppress
from email.message import EmailMessage
from email.utils import format_datetime

import aiosmtplib
import structlog

from events.errors import (
    BusError,
    BusUnavailableError,
    SendOutcomeUnknownError,
    UnsupportedByBusError,
)
from events.integration import Message, TransportFeatures
from events.integration.transport import Deliver, Subscribed, Subscription
from examples.user_registration.chassis.logs import bound
from examples.user_registration.email_service.application.mail import MailQueuedV1
from examples.user_registration.email_service.settings import EmailServiceSettings

_PERMANENT = range(500, 600)  # RFC 5321, section 4.2.1

_logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger("email_service.smtp")


class MailError(BusError):
    """The server did not take this mail; it may another time."""


class MailRefusedError(MailError):
    """The server will never take this mail as it is: trying again is of no use."""


class SmtpTransport:
    """Give mails to a mail server, each in a conversation of its own."""

    features = TransportFeatures(
        durability="broker",
        delivery="group",
        before_first_start="waits",
        headers=True,
        delayed_retry=False,
        dead_letters=False,
        ordered=False,
    )
    dead_letters = None
    connected = True  # whether it can be reached is seen with each mail

    def __init__(self, settings: EmailServiceSettings) -> None:
        self._settings = settings

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._settings.smtp_host}:{self._settings.smtp_port})"

    async def connect(self) -> None:
        """Do nothing: a mail server that is down now may be up when there is a mail."""

    async def close(self) -> None:
        """Do nothing: no connection outlives its mail."""

    def publish(self, message: Message) -> Awaitable[None]:
        return self._publish(message)

    async def subscribe(self, subscription: Subscription, deliver: Deliver) -> Subscribed:  # noqa: ARG002
        raise UnsupportedByBusError(self, "consumers", "read your mail with a mail client")

    async def _publish(self, message: Message) -> None:
        mail = self._compose(message)
        with bound(correlation_id=message.correlation_id):
            await self._converse(mail, message.id)
            _logger.info("mail sent", to=mail["To"], message_id=mail["Message-ID"])

    def _compose(self, message: Message) -> EmailMessage:
        event = MailQueuedV1.from_dict(json.loads(message.body))
        mail = EmailMessage()
        mail["From"] = self._settings.sender
        mail["To"] = event.recipient
        mail["Subject"] = event.subject
        mail["Date"] = format_datetime(event.queued_at)
        # Made when the mail was put into the outbox and the same on each attempt: a mailbox that
        # gets a copy knows it by this.
        mail["Message-ID"] = f"<{message.id}@{self._settings.sender.partition('@')[2]}>"
        mail.set_content(event.text)
        return mail

    async def _converse(self, mail: EmailMessage, message_id: str) -> None:
        settings = self._settings
        password = settings.smtp_password
        client = aiosmtplib.SMTP(
            hostname=settings.smtp_host,
            port=settings.smtp_port,
            username=settings.smtp_username,
            password=password.get_secret_value() if password else None,
            timeout=settings.smtp_timeout,
        )
        try:
            await client.connect()
        except (aiosmtplib.SMTPException, OSError) as error:
            raise BusUnavailableError(repr(self), f"{type(error).__name__}: {error}") from error
        try:
            await client.send_message(mail)
        except aiosmtplib.SMTPRecipientsRefused as error:
            raise _refused(error.recipients[0]) from error
        except aiosmtplib.SMTPResponseException as error:
            raise _refused(error) from error
        except (aiosmtplib.SMTPException, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise SendOutcomeUnknownError(repr(self), message_id, reason) from error
        finally:
            with suppress(aiosmtplib.SMTPException, OSError):  # what was sent is sent
                await client.quit()


def _refused(error: aiosmtplib.SMTPResponseException) -> MailError:
    kind = MailRefusedError if error.code in _PERMANENT else MailError
    return kind(f"{error.code} {error.message}")
