from dataclasses import dataclass
from datetime import datetime

from events.integration import IntegrationEvent, Topic

MAILS = Topic("registration.mails")


@dataclass(frozen=True, kw_only=True)
class MailQueuedV1(IntegrationEvent):
    """We owe somebody this mail. It stays in this service, from its outbox to its mail server."""

    type = "mail.queued"
    version = 1

    recipient: str
    subject: str
    text: str
    queued_at: datetime
