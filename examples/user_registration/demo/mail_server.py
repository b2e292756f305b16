"""A real SMTP server on loopback, which can be set to fail."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from itertools import repeat
from typing import Self

from aiosmtpd.smtp import SMTP, Envelope, Session

_TAKEN = "250 OK"


@dataclass(frozen=True)
class Answer:
    """What the server said to an attempt to deliver to a recipient; the mail if it was taken."""

    recipient: str
    reply: str
    mail: EmailMessage | None = None
    is_copy: bool = False


class MailServer:
    """Mailboxes that keep one mail of each Message-ID, as those of many providers do."""

    def __init__(self, on_answer: Callable[[Answer], None]) -> None:
        self._on_answer = on_answer
        self._refusals: dict[str, Iterator[str]] = {}
        self._mailboxes: dict[str, list[EmailMessage]] = defaultdict(list)
        self._server: asyncio.Server | None = None
        self.copies = 0

    @property
    def mailboxes(self) -> dict[str, list[EmailMessage]]:
        return {recipient: list(mails) for recipient, mails in self._mailboxes.items() if mails}

    def mails(self, recipient: str) -> list[EmailMessage]:
        return list(self._mailboxes[recipient])

    def refuse(self, recipient: str, reply: str, *, times: int | None = None) -> None:
        """Answer so many attempts to write to this recipient with this reply; None for all."""
        self._refusals[recipient] = repeat(reply) if times is None else repeat(reply, times)

    def accept(self, recipient: str) -> None:
        self._refusals.pop(recipient, None)

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: SMTP(self, hostname="mail.shop.example", loop=loop), "127.0.0.1", 0
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    # The names of these two are aiosmtpd's.

    async def handle_RCPT(  # noqa: N802
        self,
        _server: SMTP,
        _session: Session,
        envelope: Envelope,
        address: str,
        _options: list[str],
    ) -> str:
        refusal = next(self._refusals.get(address, iter(())), None)
        if refusal is not None:
            self._on_answer(Answer(address, refusal))
            return refusal
        envelope.rcpt_tos.append(address)
        return _TAKEN

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        mail = message_from_bytes(envelope.content, policy=policy.default)
        for recipient in envelope.rcpt_tos:
            self.deliver(recipient, mail)
        return _TAKEN

    def deliver(self, recipient: str, mail: EmailMessage) -> None:
        mailbox = self._mailboxes[recipient]
        is_copy = any(mail["Message-ID"] == other["Message-ID"] for other in mailbox)
        if is_copy:
            self.copies += 1
        else:
            mailbox.append(mail)
        self._on_answer(Answer(recipient, _TAKEN, mail, is_copy))
