"""The start of a bus whose broker may not be there yet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from events.errors import BusUnavailableError
from events.integration.brokering.backoff import Backoff
from events.integration.transport import Transport

logger = logging.getLogger("events.integration")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


class FirstConnection:
    """Connect a transport, and begin what needs it; where asked to, wait for the broker.

    The caller limits how long that may take; `waits_because` says what it waits for.
    """

    def __init__(self, transport: Transport, bus: str, *, timeout: float, wait: bool) -> None:
        self._transport = transport
        self._bus = bus
        self._timeout = timeout
        self._wait = wait
        self._waits_because: str | None = None

    @property
    def waits_because(self) -> str | None:
        """Return why the broker is not there, as far as that is known."""
        return self._waits_because or getattr(self._transport, "error", None)

    async def open(self) -> None:
        """Connect; raise `BusUnavailableError` if that failed and it may not wait."""
        await self.need(self._connect)

    async def need(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do this with the broker; where it may wait, again until the broker is available."""
        self._waits_because = None
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while True:
            try:
                await work()
            except BusUnavailableError as error:
                if not self._wait:
                    raise
                if self._waits_because != error.reason:
                    logger.warning("%s waits for its broker: %s", self._bus, error.reason)
                self._waits_because = error.reason
                await backoff.pause()
            else:
                self._waits_because = None
                return

    async def _connect(self) -> None:
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                await self._transport.connect()
        except (TimeoutError, BusUnavailableError) as error:
            reason: str | None = getattr(self._transport, "error", None)
            if self._wait:
                await self._transport.close()
            if limit.expired():
                why = "" if reason is None else f": {reason}"
                within = f"no connection within {self._timeout:g} s"
                cure = "" if self._wait else "; with wait_for_broker=True, `startup` waits for it"
                raise BusUnavailableError(self._bus, within + why + cure) from error
            raise
