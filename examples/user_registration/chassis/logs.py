"""Structured logs: what the services say and what libraries say, in one form on stderr.

A line belongs to a registration if it has its `correlation_id`, which `bound` gives to all that is
logged inside of it. `LOG_FORMAT=json` is for machines, `console` for people.
"""

import logging
import sys
from contextlib import AbstractContextManager
from typing import Literal

import structlog
from pydantic_settings import BaseSettings, SettingsConfigDict
from structlog.typing import EventDict, Processor, WrappedLogger

from examples.user_registration.chassis.settings import load_or_exit

_FIELDS = ["correlation_id", "event_id", "attempt"]


class LogSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="LOG_", env_file=".env", extra="ignore")

    format: Literal["console", "json"] = "console"
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


def bound(**values: object) -> AbstractContextManager[object]:
    """Give all that is logged within the block these values."""
    return structlog.contextvars.bound_contextvars(**values)


def configure_logs(service: str, settings: LogSettings | None = None) -> None:
    """Write all logs of this process in one format, and replace earlier configuration."""
    settings = settings or load_or_exit(LogSettings)

    def name_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {"service": service, **event}

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        name_service,
    ]
    to_stdlib(shared)
    last: list[Processor] = (
        [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
        if settings.format == "json"
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)]
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            # The library says what its lines are about in fields besides the text.
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(allow=_FIELDS)],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(level=settings.level, handlers=[handler], force=True)
    for noisy in ("aiosqlite", "httpx", "alembic.runtime.plugins", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def to_stdlib(processors: list[Processor]) -> None:
    """Hand structlog's records on to the loggers of the standard library."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *processors,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
