from datetime import UTC, datetime

from events.integration import Outbox
from examples.user_registration.contracts import UserRegisteredV1
from examples.user_registration.email_service.application.mail import MAILS, MailQueuedV1


class WelcomeUser:
    """Owe each user who registered a mail of welcome.

    It does not talk to a mail server, since that could not be undone if the transaction failed.
    """

    def __init__(self, mails: Outbox) -> None:
        self._mails = mails

    async def handle(self, event: UserRegisteredV1) -> None:
        mail = MailQueuedV1(
            recipient=event.email,
            subject="Welcome to the shop",
            text=f"You registered on {event.registered_at:%d %B %Y}. Good to have you!\n",
            queued_at=datetime.now(UTC),
        )
        await self._mails.put(MAILS, mail, key=event.email)
