from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What differs between one place to run and another. Times are in seconds.

    From the environment: REDIS_URL, and the others as in CHAT_PORT.
    """

    model_config = SettingsConfigDict(env_prefix="CHAT_")

    redis_url: str | None = Field(
        None, validation_alias="REDIS_URL", description="without it, the in-memory bus"
    )
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535, description="0 for a free one")
    allowed_origins: list[str] = Field(
        [], description='of other sites\' pages that may connect, as in ["https://chat.example"]'
    )
    log_format: str = Field("auto", pattern="^(auto|console|json)$")

    connect_timeout: float = Field(5.0, gt=0)
    send_timeout: float = Field(3.0, gt=0)
    heartbeat: float = Field(2.0, gt=0)
    timeout: float = Field(6.0, gt=0, description="seconds until a silent server is removed")
    join_timeout: float = Field(10.0, gt=0, description="seconds for a socket to join a room")
    max_sockets: int = Field(1000, ge=1)
    backlog: int = Field(256, ge=8, description="unsent frames of a slow socket")
    burst: int = Field(10, ge=1, description="requests at once")
    rate: float = Field(2.0, gt=0, description="requests a second, after a burst")
