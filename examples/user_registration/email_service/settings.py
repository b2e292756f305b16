from typing import Annotated, Self

from pydantic import AfterValidator, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from examples.user_registration.chassis.settings import (
    AtLeastOne,
    DatabaseUrl,
    Port,
    RabbitMQConnectTimeout,
    RabbitMQUrl,
    Seconds,
)


def _address(given: str) -> str:
    name, at, domain = given.partition("@")
    if not (name and at and domain) or given != given.strip():
        raise ValueError("give a mail address, as in welcome@shop.example")
    return given


class EmailServiceSettings(BaseSettings):
    """What differs between one place to run and another. Times are in seconds."""

    model_config = SettingsConfigDict(
        env_prefix="EMAIL_SERVICE_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        populate_by_name=True,
    )

    database_url: DatabaseUrl = "sqlite:///email_service.sqlite3"
    rabbitmq_url: RabbitMQUrl = "amqp://guest:guest@localhost:5672/"
    rabbitmq_connect_timeout: RabbitMQConnectTimeout = 5.0
    probe_host: str = "127.0.0.1"
    probe_port: Port = 8002

    # How often, and after how long first, an event is handled again.
    event_attempts: AtLeastOne = 8
    event_retry_delay: Seconds = 0.5

    sender: Annotated[str, AfterValidator(_address)] = "welcome@shop.example"
    smtp_host: str = "localhost"
    smtp_port: Port = 1025
    smtp_username: str | None = None
    smtp_password: SecretStr | None = None
    smtp_timeout: Seconds = 10.0

    # How often a mail that the server does not take is tried; then it is parked.
    mail_attempts: AtLeastOne = 12
    mail_retry_delay: Seconds = 2.0
    # How many mails are with the server at once; so many may be sent twice if we are killed then.
    mails_at_once: AtLeastOne = 4
    # Until the mails of a process that was killed are sent by the next. Longer than the timeout.
    relay_lease: Seconds = 30.0

    @model_validator(mode="after")
    def _lease_outlasts_a_mail(self) -> Self:
        if self.relay_lease <= self.smtp_timeout:
            raise ValueError("EMAIL_SERVICE_RELAY_LEASE must be longer than the SMTP_TIMEOUT")
        return self
