from email.message import EmailMessage

from events.integration import Delivery
from examples.user_registration.contracts import UserRegisteredV1
from examples.user_registration.email_service.application.ports import Mailer


class SendWelcome:
    def __init__(self, mailer: Mailer, delivery: Delivery) -> None:
        self._mailer = mailer
        self._delivery = delivery

    async def handle(self, event: UserRegisteredV1) -> None:
        mail = EmailMessage()
        mail["From"] = "welcome@shop.example"
        mail["To"] = event.email
        mail["Subject"] = "Welcome to the shop"
        # An event can come twice, but always under one id: mail servers know a copy by this.
        mail["Message-ID"] = f"<{self._delivery.id}@shop.example>"
        mail.set_content(f"You registered on {event.registered_at:%d %B %Y}. Good to have you!\n")
        await self._mailer.send(mail)
