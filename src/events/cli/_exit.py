"""How the command ends."""

from __future__ import annotations

__all__ = ["FAILED", "OK", "UNAVAILABLE", "USAGE", "UsageError"]

OK, FAILED, USAGE, UNAVAILABLE = 0, 1, 2, 3


class UsageError(Exception):
    """The arguments cannot be used; the text names the argument and the cure."""
