"""The exit statuses of the command."""

from __future__ import annotations

OK, FAILED, USAGE, UNAVAILABLE = 0, 1, 2, 3


class UsageError(Exception):
    """The arguments cannot be used; the text names the argument and the cure."""
