"""Structured logs, ours and the library's alike, each line with its correlation id.

The code that receives a message from a socket binds its id as the correlation id. It travels with
the event, and the middleware binds it again at each server, around the event's handlers.
"""

import logging
import sys

import structlog
from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.typing import EventDict, Processor

from events.integration import Handle, IncomingEvent

FIRST = ("timestamp", "server", "level", "event", "correlation_id")


async def log_with_correlation(incoming: IncomingEvent, call_next: Handle, /) -> None:
    """Add the correlation id to every log line about an event. A middleware of the bus."""
    with bound_contextvars(correlation_id=incoming.delivery.correlation_id):
        await call_next(incoming)


def configure_logs(format: str, *, server: str) -> None:
    """Write lines for people at a terminal, JSON elsewhere, to standard error."""
    for_people = format == "console" or (format == "auto" and sys.stderr.isatty())

    def name_server(_: object, __: str, event: EventDict) -> EventDict:
        event.setdefault("server", server)
        return event

    def order(_: object, __: str, event: EventDict) -> EventDict:
        return {name: event[name] for name in FIRST if name in event} | dict(event)

    shared: list[Processor] = [
        merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),  # the library says of which event and consumer it speaks
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        name_server,
    ]
    render: list[Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if for_people
        else [structlog.processors.format_exc_info, order, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
