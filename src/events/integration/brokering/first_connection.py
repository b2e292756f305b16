"""The first connection of a bus, whose broker may not be there yet."""

from __future__ import annotations

import logging

from events.errors import BusUnavailableError
from events.integration.brokering.backoff import Backoff
from events.integration.transport import Transport

__all__ = ["FirstConnection"]

logger = logging.getLogger("events.integration")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


class FirstConnection:
    """Connect a transport; where asked to, try until the broker is there.

    Whoever awaits `open` bounds how long that may take; `waits_because` says what it waits for.
    """

    def __init__(self, transport: Transport, bus: str, *, wait: bool) -> None:
        self._transport = transport
        self._bus = bus
        self._wait = wait
        self.waits_because: str | None = None

    async def open(self) -> None:
        """Connect; raise `BusUnavailableError` where it may not wait."""
        self.waits_because = None
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while True:
            try:
                await self._transport.connect()
            except BusUnavailableError as error:
                if not self._wait:
                    raise
                if self.waits_because is None:
                    logger.warning("%s waits for its broker: %s", self._bus, error.reason)
                self.waits_because = error.reason
                await self._transport.close()
                await backoff.pause()
            else:
                self.waits_because = None
                return
