from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What differs between one place to run and another. Times are in seconds."""

    database_url: str
    smtp_host: str
    smtp_port: int
    mail_attempts: int = 8
    mail_retry_delay: float = 0.5
