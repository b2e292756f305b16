"""Log records as lines of the timeline: tracebacks are for files, and the facts are all there."""

import logging
import re
from collections.abc import Generator
from contextlib import contextmanager

import structlog

from examples.user_registration.chassis.logs import to_stdlib
from examples.user_registration.demo.timeline import Timeline

_uuid = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@contextmanager
def log_to(timeline: Timeline) -> Generator[None]:
    """Show warnings of everybody, and what the library has to say, until the block ends."""
    handler = _TimelineHandler(timeline)
    root, library = logging.getLogger(), logging.getLogger("events")
    level = library.level
    root.addHandler(handler)
    to_stdlib([])  # what the services log of their own is no warning, so it is not shown
    library.setLevel(logging.INFO)
    try:
        yield
    finally:
        library.setLevel(level)
        root.removeHandler(handler)
        structlog.reset_defaults()


class _TimelineHandler(logging.Handler):
    def __init__(self, timeline: Timeline) -> None:
        super().__init__()
        self._timeline = timeline

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(_without_traceback(record.getMessage()).split())
        if not record.name.startswith("events."):
            text = f"{record.name}: {text}"
        error = record.exc_info and record.exc_info[1]
        if error and str(error) not in text:
            notes: list[str] = getattr(error, "__notes__", [])
            text = "; ".join([f"{text}: {type(error).__name__}: {error}", *notes])
        correlation_id = getattr(record, "correlation_id", "")
        self._timeline.say(
            "log",
            _uuid.sub(lambda each: f"…{each[0][-6:]}", text),
            correlation_id,
            style="yellow" if record.levelno >= logging.WARNING else "dim",
        )


def _without_traceback(message: str) -> str:
    """Leave the error itself of a traceback that came as text, as Starlette's do."""
    return re.sub(r"^Traceback .*\n +[^\n]*\n", "", message, flags=re.DOTALL)
