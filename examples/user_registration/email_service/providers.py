from dishka import Provider, Scope, provide  # pyright: ignore[reportUnknownVariableType]

from examples.user_registration.email_service.application.ports import Mailer
from examples.user_registration.email_service.infrastructure.smtp import SmtpMailer
from examples.user_registration.settings import Settings


class EmailServiceProvider(Provider):
    @provide(scope=Scope.APP)
    def mailer(self, settings: Settings) -> Mailer:
        return SmtpMailer(settings.smtp_host, settings.smtp_port)
