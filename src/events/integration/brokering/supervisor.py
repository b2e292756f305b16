"""A connection that is made, watched, and made again when it is lost, for ever.

    closed --open--> connecting --> up --lost--> connecting, after a pause --> up ...
       ^                  '--> ended: there will never be one again
       '------close------- from each of them

A broker says how to connect, and that a connection is lost: it calls `lose` where it hears of that,
or is asked every so often. The pauses between attempts double, with jitter; they reset after a
connection that lasted for a while, so that a broker that closes each one at once is not hammered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from events.errors import BusUnavailableError
from events.integration.brokering.backoff import Backoff
from events.integration.brokering.problems import Outage

logger = logging.getLogger("events.integration")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
_LASTS = 10.0  # seconds
_SWALLOWED = 0.2  # seconds until a task is cancelled again
_CLOSED = "it is closed"

C = TypeVar("C")


class NoConnectionError(Exception):
    """Raised where no connection was made.

    `refused` says that the broker does not want us, as with a wrong password: who opens the
    connection hears so at once, and one that was lost is tried again all the same. `ended` says
    that there will never be a connection any more.
    """

    def __init__(self, reason: str, *, refused: bool = False, ended: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.refused = refused
        self.ended = ended


class Dialer(Protocol[C]):
    """The port of a broker for its connections."""

    async def dial(self) -> C:
        """Connect, within a deadline; raise `NoConnectionError`. What it began it takes back."""
        ...

    async def hang_up(self, connection: C) -> None:
        """Close the connection, which may be lost; within a deadline, too."""
        ...

    def why_lost(self, connection: C) -> str | None:
        """Return why the connection is of no use any more; None while it is."""
        ...


class Supervisor(Generic[C]):
    """Keep one connection up.

    `on_up` are called with each new connection, `on_down` when it is lost or closed, `on_end` when
    there will be none any more and nobody has closed it. Without `look_every`, a loss is heard of
    by `lose` alone.
    """

    def __init__(
        self, dialer: Dialer[C], outage: Outage, *, look_every: float | None = None
    ) -> None:
        self.connection: C | None = None
        self.reason: str | None = _CLOSED  # why there is no connection
        self.on_up: list[Callable[[C], None]] = []
        self.on_down: list[Callable[[], None]] = []
        self.on_end: list[Callable[[BusUnavailableError], None]] = []
        self._dialer = dialer
        self._outage = outage
        self._look_every = look_every
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._opening = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._first: asyncio.Future[None] | None = None  # of `open`
        self._current: C | None = None  # the one that is not hung up yet, lost or not
        self._up = asyncio.Event()
        self._look_now = asyncio.Event()

    @property
    def is_up(self) -> bool:
        """Return whether there is a connection at this moment."""
        return self.connection is not None

    @property
    def is_open(self) -> bool:
        """Return whether it is between `open` and `close`, connected or not."""
        return self._task is not None

    async def open(self, timeout: float) -> None:  # noqa: ASYNC109 - it says why it failed
        """Connect, and try again until the time is over.

        Raises:
            BusUnavailableError: There is no connection, or the broker refuses us.
        """
        async with self._opening:
            if self._task is not None:
                return
            self.reason = None
            self._backoff.reset()
            first = self._first = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._run(), name=f"{self._outage.name} connection")
            self._task.add_done_callback(self._is_over)
            try:
                await asyncio.wait({first}, timeout=timeout)
                if not first.done():
                    within = f"no connection within {timeout:g} s"
                    why = within if self.reason is None else f"{within}: {self.reason}"
                    raise BusUnavailableError(self._outage.name, why)
                first.result()
            except BaseException:
                failed = self.reason
                await self._close()
                self.reason = failed  # which is of more use than that it is closed
                raise
            finally:
                self._first = None

    async def close(self) -> None:
        """Disconnect, and stay so."""
        async with self._opening:
            await self._close()

    async def _close(self) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        await end(task)
        connection, self._current = self._current, None
        self._set_down(_CLOSED)
        self._outage.end(self, closed=True)
        if connection is not None:
            await self._dialer.hang_up(connection)

    async def wait_up(self) -> None:
        """Return when it is up."""
        await self._up.wait()

    def lose(self, reason: str) -> None:
        """Note that the connection was lost; without one, nothing is noted."""
        if self.connection is not None:
            self._outage.begin(self, reason)
            self._set_down(f"the connection was lost: {reason}")
            self._look_now.set()

    def look(self) -> None:
        """Have the connection looked at soon."""
        self._look_now.set()

    # --- the task -----------------------------------------------------------------------------

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection = await self._dial()
            except NoConnectionError as error:
                self._end(error.reason)
                return
            self._current = connection
            if self._task is not asyncio.current_task():  # the driver swallowed our cancellation
                return
            up_since = loop.time()
            self._set_up(connection)
            await self._watch(connection)
            await self._dialer.hang_up(connection)
            self._current = None
            if loop.time() - up_since > _LASTS:
                self._backoff.reset()
            await self._backoff.pause()

    async def _dial(self) -> C:
        """Return a connection, however long that takes; raise if there will be none."""
        while True:
            try:
                return await self._dialer.dial()
            except NoConnectionError as error:
                if error.ended:
                    raise
                self.reason = error.reason
                is_final = error.refused
            except Exception as error:
                logger.debug("%s cannot connect", self._outage.name, exc_info=True)
                if self._first is not None:
                    raise
                self.reason, is_final = repr(error), False
            if self._first is None:
                self._outage.begin(self, self.reason)
            elif is_final:
                raise NoConnectionError(f"refused: {self.reason}")
            await self._backoff.pause()

    async def _watch(self, connection: C) -> None:
        """Return when the connection is lost."""
        while self.connection is connection:
            self._look_now.clear()
            why = self._dialer.why_lost(connection)
            if why is not None:
                self.lose(why)
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(self._look_every):
                    await self._look_now.wait()

    def _set_up(self, connection: C) -> None:
        self.connection = connection
        self.reason = None
        self._up.set()
        self._outage.end(self)
        for on_up in tuple(self.on_up):
            on_up(connection)
        if self._first is not None and not self._first.done():
            self._first.set_result(None)

    def _set_down(self, reason: str) -> None:
        was_up, self.connection = self.connection is not None, None
        self.reason = reason
        self._up.clear()
        if was_up:
            for on_down in tuple(self.on_down):
                on_down()

    # --- the end ------------------------------------------------------------------------------

    def _is_over(self, task: asyncio.Task[None]) -> None:
        """Report a task that ended by mistake, after which nothing would connect."""
        if task is not self._task:
            return
        if task.cancelled():
            self._end("its task was cancelled")
        elif (error := task.exception()) is not None:
            if self._first is not None and not self._first.done():
                self._first.set_exception(error)
            else:
                self._end(repr(error))

    def _end(self, reason: str) -> None:
        self._set_down(reason)
        error = BusUnavailableError(self._outage.name, reason)
        if self._first is not None and not self._first.done():
            self._first.set_exception(error)
            return
        logger.error("%s will not reconnect: %s", self._outage.name, reason)
        for on_end in tuple(self.on_end):
            on_end(error)


async def end(task: asyncio.Task[None]) -> None:
    """Cancel the task until it ends: some drivers swallow a cancellation in places."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_SWALLOWED)
