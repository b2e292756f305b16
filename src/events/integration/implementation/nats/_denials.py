"""Permissions that the server denies: its errors name a subject, but no request.

A connection lives on then, and what was sent has no answer. So the sender is found by the
subject: the server reads in order and says so for each message, so the oldest was refused.
"""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct

_denied = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"').search


class Denial(Struct, frozen=True):
    """A subject that we may not write to, or not read from; and the server's words."""

    verb: Literal["publish", "subscription"]
    subject: str
    text: str


def denial_in(error: Exception) -> Denial | None:
    """Return the denial that the driver reports; None if it is another error."""
    text = str(error).removeprefix("nats: ")
    found = _denied(text.lower())
    if found is None:
        return None
    return Denial("publish" if found[1] == "publish" else "subscription", found[2], text)
