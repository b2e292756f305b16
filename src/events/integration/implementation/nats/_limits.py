"""Limits of a pull: from the consumer's settings, and from the server's refusals.

An operator can bound pulls for a consumer (`max_batch`, `max_expires`, `max_bytes`, `max_waiting`)
and for a whole server (`max_request_batch`). The latter stands nowhere to be read: a pull that is
refused with status 409 names it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from events.integration.implementation.nats._topology import NANO, seconds

_exceeded = re.compile(r"exceeded maxrequest(batch|expires|maxbytes) of (\S+)").search


class PullLimits:
    """The largest batch, time and size of a pull, and how many may wait; None is no limit."""

    def __init__(self) -> None:
        self.batch: int | None = None
        self.expires: float | None = None
        self.bytes: int | None = None
        self.waiting: int | None = None

    def read(self, config: Mapping[str, Any]) -> None:
        """Take over the settings of a consumer, as JetStream's API has them."""
        self.batch = config.get("max_batch") or None
        self.expires = (config.get("max_expires") or 0) / NANO or None
        self.bytes = config.get("max_bytes") or None
        self.waiting = config.get("max_waiting") or None

    def learn(self, refusal: str) -> bool:
        """Read a limit from the description of a status; return whether it was a new one."""
        found = _exceeded(refusal.lower())
        if found is None:
            return False
        what, text = found[1], found[2]
        before = self.batch, self.expires, self.bytes
        if what == "expires":
            self.expires = seconds(text) or self.expires
        elif text.isascii() and text.isdigit() and int(text):
            if what == "batch":
                self.batch = int(text)
            else:
                self.bytes = int(text)
        return before != (self.batch, self.expires, self.bytes)
