"""The application of `events demo`; it needs the extra `demo` of this package."""

from __future__ import annotations

import logging


def log_in_lines() -> None:
    """Log to the terminal without tracebacks, which would hide the lines of the shop."""
    log = logging.StreamHandler()
    log.setFormatter(_OneLine("  log: %(message)s"))
    logging.getLogger("events.integration").addHandler(log)


class _OneLine(logging.Formatter):
    """A formatter without tracebacks."""

    def formatException(self, ei: object) -> str:  # noqa: ARG002, N802 - logging's name
        return ""
