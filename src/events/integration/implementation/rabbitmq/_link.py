"""A connection that finds its way back.

    closed --open--> connecting --> up --lost--> connecting again, after a pause --> up ...
       ^----------------------------close--------------------------------------------'

Hosts are tried one after another, from the one after the last that answered; a round in which none
does is followed by a pause that doubles, with jitter, up to ten seconds, for ever. The links of one
bus are mostly lost together, so their `Outage` logs one line when the first is lost, and one when
all are back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from events.errors import BusUnavailableError
from events.integration.brokering.backoff import Backoff
from events.integration.brokering.problems import Outage
from events.integration.brokering.urls import masked
from events.integration.implementation.rabbitmq._connection import Connection
from events.integration.implementation.rabbitmq._driver import DriverError
from events.integration.implementation.rabbitmq._held import LASTS

__all__ = ["Link"]

logger = logging.getLogger("events.integration")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0


class Link:
    """Own one connection at a time; tell `on_up` of each new one and `on_down` of its loss."""

    def __init__(
        self,
        what: str,
        outage: Outage,
        urls: Sequence[str],
        *,
        timeout: float,
        on_up: Callable[[Connection], None],
        on_down: Callable[[], None],
    ) -> None:
        self._what = what
        self._outage = outage
        self._urls = list(urls)
        self._timeout = timeout
        self._on_up = on_up
        self._on_down = on_down
        self._opening = asyncio.Lock()
        self._reconnecting: asyncio.Task[None] | None = None
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._up_since = 0.0
        self.connection: Connection | None = None
        self.waits_because: str | None = None  # of what `open` was told last, while it waits

    @property
    def is_up(self) -> bool:
        """Tell whether there is a connection at this moment."""
        return self.connection is not None

    @property
    def is_closed(self) -> bool:
        """Tell whether it was never opened, or closed again."""
        return self.connection is None and self._reconnecting is None

    async def open(self, *, wait: bool = False) -> None:
        """Connect, with one round over the hosts, or rounds without end if it is to wait.

        Raises:
            BusUnavailableError: no host answered.
        """
        async with self._opening:
            if not self.is_closed:
                return
            while (reason := await self._connect()) is not None:
                if not wait:
                    raise BusUnavailableError(self._outage.name, reason)
                if reason != self.waits_because:
                    logger.warning(
                        "%s is not available, startup waits for it: %s", self._outage.name, reason
                    )
                self.waits_because = reason
                await self._backoff.pause()
            self.waits_because = None
            self._backoff.reset()

    async def up(self) -> Connection:
        """Return the connection, and wait for the next one if it was lost.

        Raises:
            BusUnavailableError: it is closed, and stays so.
        """
        while self.connection is None or not self.connection.is_open:
            if self._reconnecting is not None:
                await asyncio.wait({self._reconnecting})
            elif self.connection is None:
                raise BusUnavailableError(self._outage.name, "it is closed")
            else:
                await asyncio.sleep(0)  # the loss is about to be told
        return self.connection

    async def _connect(self) -> str | None:
        """Try each host once; return why there is no connection, or None."""
        reasons: list[str] = []
        for _ in range(len(self._urls)):
            url = self._urls[0]
            self._urls.append(self._urls.pop(0))
            try:
                connection = await Connection.open(url, self._timeout)
            except (DriverError, OSError) as error:
                reasons.append(f"{masked(url)}: {error}")
                continue
            if not connection.is_open:
                reasons.append(f"{masked(url)}: it closed the connection at once")
                continue
            connection.on_lost = self._lost
            self.connection = connection
            self._up_since = asyncio.get_running_loop().time()
            self._on_up(connection)
            return None
        if len(reasons) == 1:
            return reasons[0].partition(": ")[2]  # there is but one host, and it is named already
        return "; ".join(reasons)

    def _lost(self, reason: str) -> None:
        self.connection = None
        # A broker that closes each new connection must not be hammered.
        if asyncio.get_running_loop().time() - self._up_since > LASTS:
            self._backoff.reset()
        self._outage.begin(self, reason)
        self._on_down()
        self._reconnecting = asyncio.create_task(self._reconnect(), name=f"rabbitmq {self._what}")

    async def _reconnect(self) -> None:
        await self._backoff.pause()
        while (reason := await self._connect()) is not None:
            self._outage.begin(self, reason)
            await self._backoff.pause()
        self._reconnecting = None
        self._outage.end(self)

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 - it hangs up in the end
        """Disconnect and stay so; return when the socket is closed."""
        async with self._opening:
            task, self._reconnecting = self._reconnecting, None
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
            self._outage.end(self, closed=True)
            connection, self.connection = self.connection, None
            if connection is not None:
                await connection.close(timeout)
                self._on_down()
