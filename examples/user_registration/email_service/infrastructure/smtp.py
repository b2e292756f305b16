from email.message import EmailMessage

import aiosmtplib

from examples.user_registration.email_service.application.ports import MailError, MailRefusedError

_TIMEOUT = 10.0
_PERMANENT = range(500, 600)  # RFC 5321, section 4.2.1


class SmtpMailer:
    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port

    async def send(self, mail: EmailMessage) -> None:
        try:
            await aiosmtplib.send(mail, hostname=self._host, port=self._port, timeout=_TIMEOUT)
        except aiosmtplib.SMTPRecipientsRefused as error:
            raise _translated(error.recipients[0]) from error
        except aiosmtplib.SMTPResponseException as error:
            raise _translated(error) from error
        except (aiosmtplib.SMTPException, OSError) as error:
            raise MailError(str(error)) from error


def _translated(error: aiosmtplib.SMTPResponseException) -> MailError:
    kind = MailRefusedError if error.code in _PERMANENT else MailError
    return kind(f"{error.code} {error.message}")
