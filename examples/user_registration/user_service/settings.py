from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from examples.user_registration.chassis.settings import (
    AtLeastOne,
    DatabaseUrl,
    Port,
    RabbitMQConnectTimeout,
    RabbitMQUrl,
    Seconds,
)


class UserServiceSettings(BaseSettings):
    """What differs between one place to run and another. Times are in seconds."""

    model_config = SettingsConfigDict(
        env_prefix="USER_SERVICE_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        populate_by_name=True,
    )

    database_url: DatabaseUrl = "sqlite:///user_service.sqlite3"
    http_host: str = "127.0.0.1"
    http_port: Port = 8000
    # RFC 9106's second recommendation: a good tenth of a second for each password.
    argon2_time_cost: AtLeastOne = 3
    argon2_memory_kib: Annotated[int, Field(ge=64)] = 64 * 1024

    # The relay's, which is a process of its own.
    rabbitmq_url: RabbitMQUrl = "amqp://guest:guest@localhost:5672/"
    rabbitmq_connect_timeout: RabbitMQConnectTimeout = 5.0
    relay_probe_port: Port = 8001
    relay_lease: Seconds = 30.0
    relay_poll_interval: Seconds = 0.5
