"""`OutboxRelay`: the process, or the task, that empties an outbox into a bus.

    stopped --startup--> relaying --shutdown--> finishing its batch --> stopped

While relaying it goes round in this circle:

    idle --nudge or poll--> read --rows--> forward --outcome--> settle --> read
      ^                      |                                    |
      '------ nothing due ---+------------------------------------'

- read: one select of what is due, claim-free and outside of any write transaction.
- forward: many in flight, each confirmed by the broker, with no transaction open.
- settle: one short delete of what was accepted; what was refused is postponed. This is tried until
  the database takes it, as a row that was sent and stays would be sent again.

Trouble with the database or the bus costs no row anything. The relay waits, longer each time, and
tries again; it logs each kind of trouble once when it comes, and once when all is well again.
Killed at any point it leaves rows that are sent again with the same ids, and loses none.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from msgspec import Struct

from events.errors import OutboxError
from events.integration.bus import IntegrationEventBus
from events.integration.outbox.forwarding import ForwardingBus, forward_to, sort
from events.integration.outbox.port import OutboxRow, OutboxStore, Postponed
from events.integration.pipeline.lifecycle import LifecycleLock, calling
from events.integration.pipeline.retry import describe
from events.integration.topology import RetryPolicy

__all__ = ["OutboxRelay", "RelayHealth", "RelayStep"]

logger = logging.getLogger("events.integration")

RelayStep: TypeAlias = Literal["selected", "sent", "removed"]

_FIRST_POLL = 0.01  # seconds; a nudge may come just before its commit is seen, so look again soon
_TROUBLE = RetryPolicy(delay=0.1, factor=2.0, max_delay=5.0)


class RelayHealth(Struct, frozen=True):
    """A relay at one moment.

    `trouble` says what it is waiting for to go away; `last_read` is how many seconds ago it last
    read the table.
    """

    started: bool
    alive: bool
    trouble: str | None
    last_read: float | None

    @property
    def healthy(self) -> bool:
        """Tell whether the relay is started, alive and without trouble."""
        return self.started and self.alive and self.trouble is None


class OutboxRelay:
    """Publish what is committed to an outbox, at least once, with the ids made at `put`.

    It owns neither the store nor the bus: start the bus first and stop it last, as in
    `async with bus, OutboxRelay(store, bus):`. A bus of ours gets the stored bytes; one on the bare
    port gets decoded events through `send`, whose classes must then be imported here. Rows leave
    roughly in the order of their ids. One that the bus refuses waits as `retry` says, its error
    kept beside it, and is tried for ever; the others go on.

    Args:
        store: The rows, for example a `SQLAlchemyOutboxStore`.
        bus: Where they go.
        batch: How many rows are read, forwarded and removed at once.
        poll_interval: Seconds between two looks at an idle table; the net beneath the nudges.
        send_timeout: Seconds for one `send` of a bus on the bare port.
        retry: The delays of a refused row.
        shutdown_grace: Seconds for the batch in flight at the end of `async with`.
        on_step: Called after each step, for tests that stop a relay between two of them.
    """

    def __init__(
        self,
        store: OutboxStore,
        bus: IntegrationEventBus,
        *,
        batch: int = 500,
        poll_interval: float = 2.0,
        send_timeout: float = 30.0,
        retry: RetryPolicy | None = None,
        shutdown_grace: float = 10.0,
        on_step: Callable[[RelayStep], None] | None = None,
    ) -> None:
        given: object = store
        if not callable(getattr(given, "due", None)):
            raise TypeError(
                f"OutboxRelay needs an OutboxStore first, such as SQLAlchemyOutboxStore(engine), "
                f"not {type(given).__name__}"
            )
        self._store = store
        self._bus = bus
        self._forward = forward_to(bus, timeout=send_timeout)
        self._batch = batch
        self._poll_interval = poll_interval
        self._retry = retry or RetryPolicy()
        self._shutdown_grace = shutdown_grace
        self._on_step = on_step or _ignore
        self._lifecycle = LifecycleLock()
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._woken = asyncio.Event()
        self._drains: list[asyncio.Future[None]] = []
        self._trouble: Exception | None = None
        self._failures = 0
        self._logged: set[type[Exception]] = set()
        self._last_read: float | None = None

    # --- lifecycle ----------------------------------------------------------------------------

    async def startup(self) -> None:
        """Check table and bus, and begin, or begin anew if it has ended. Twice does no harm.

        Raises `OutboxTableError` for a table that is missing or of another layout,
        `BusNotStartedError` for a bus that says it is not started.
        """
        async with self._lifecycle:
            if self._task is not None and not self._task.done():
                return
            await self._store.check()
            if isinstance(self._bus, ForwardingBus):
                await self._bus.forward([])
            # New ones, as they belong to the event loop in which they were first waited for.
            self._stopping, self._woken = asyncio.Event(), asyncio.Event()
            self._task = asyncio.create_task(self._relay(), name=f"{self!r}")
            self._task.add_done_callback(_log_end)

    async def shutdown(self, *, grace: float | None = None) -> None:
        """Let the batch in flight end, then stop. Calling it twice does no harm.

        What outlasts the grace (`shutdown_grace` if None) is given up: its rows stay, and those
        that had been sent already are sent again by the next relay. It does not empty the outbox;
        call `drain` before for that.
        """
        async with self._lifecycle:
            if self._task is None:
                return
            self._stopping.set()
            self._woken.set()
            try:
                grace = self._shutdown_grace if grace is None else grace
                await asyncio.wait([self._task], timeout=grace)
            finally:
                self._task.cancel()
                await asyncio.wait([self._task])
                self._task = None
                self._trouble = None

    async def __aenter__(self) -> Self:
        await self.startup()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.shutdown()

    async def run(
        self, *, signals: Iterable[signal.Signals] = (signal.SIGTERM, signal.SIGINT)
    ) -> None:
        """Start, relay until one of the signals comes, then shut down.

        Raises `OutboxError` if the relay ends by itself, so that its process does too. Cancelling
        it shuts down as well.
        """
        stop = asyncio.Event()
        with calling(stop.set, on=signals):
            stopped = asyncio.create_task(stop.wait())
            try:
                async with self:
                    await self._wait_alive(stopped)
            finally:
                stopped.cancel()

    async def drain(self) -> None:
        """Return when the bus has what was committed before the call.

        Rows that are postponed are not waited for. It waits while bus or database are in trouble,
        and until the relay has caught up with those who go on writing, so give it a deadline.
        Raises `OutboxError` if the relay is not started, or stops meanwhile.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._drains.append(done)
        self._woken.set()
        try:
            await self._wait_alive(done)
        finally:
            done.cancel()
            self._drains = [other for other in self._drains if other is not done]

    async def _wait_alive(self, awaited: asyncio.Future[Any]) -> None:
        task = self._task
        if task is None:
            raise OutboxError(f"{self!r} is not started; use `async with` or `await startup()`")
        await asyncio.wait([awaited, task], return_when=asyncio.FIRST_COMPLETED)
        if not awaited.done():
            cause = None if task.cancelled() else task.exception()
            raise OutboxError(f"{self!r} has stopped") from cause

    def health(self) -> RelayHealth:
        """Say whether the relay lives and what troubles it; cheap enough for a probe."""
        now = asyncio.get_running_loop().time()
        return RelayHealth(
            started=self._task is not None,
            alive=self._task is not None and not self._task.done(),
            trouble=None if self._trouble is None else describe(self._trouble),
            last_read=None if self._last_read is None else now - self._last_read,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._store!r}, {self._bus!r})"

    # --- the circle ---------------------------------------------------------------------------

    async def _relay(self) -> None:
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(self._woken.set)

        idle = _FIRST_POLL
        async with self._store.listen(wake):
            while not self._stopping.is_set():
                self._woken.clear()
                read = await self._turn()
                if self._trouble is not None:
                    await _wait(self._stopping, _TROUBLE.delay_after(self._failures))
                elif read < self._batch:
                    idle = _FIRST_POLL if read else min(idle * 2, self._poll_interval)
                    if await _wait(self._woken, idle):
                        idle = _FIRST_POLL

    async def _turn(self) -> int:
        """Read, forward and settle once; return how many rows there were."""
        drains, self._drains = self._drains, []
        read = 0
        trouble: Exception | None = None
        try:
            rows = await self._store.due(self._batch)
            self._last_read = asyncio.get_running_loop().time()
            read = len(rows)
            if rows:
                trouble = await self._pass_on(rows)
        except Exception as error:  # noqa: BLE001 - a relay is never quietly dead
            trouble = error
        self._note(trouble)
        if trouble is None and read < self._batch:
            for done in drains:
                if not done.done():
                    done.set_result(None)
        else:
            self._drains += [done for done in drains if not done.done()]
        return read

    async def _pass_on(self, rows: Sequence[OutboxRow]) -> Exception | None:
        self._on_step("selected")
        sound = [row for row in rows if row.fault is None]
        outcome = sort(sound, await self._forward([row.message for row in sound]))
        self._on_step("sent")
        if outcome.accepted:
            self._failures = 0  # a bus that takes some of them is not down
            await self._insist(lambda: self._store.remove([row.id for row in outcome.accepted]))
        refused = [*outcome.refused, *((row, row.fault) for row in rows if row.fault is not None)]
        if refused:
            postponed = [self._postpone(row, error) for row, error in refused]
            await self._insist(lambda: self._store.postpone(postponed))
        self._on_step("removed")
        return outcome.trouble

    def _postpone(self, row: OutboxRow, error: Exception) -> Postponed:
        attempt = row.attempts + 1
        delay = self._retry.delay_after(attempt)
        logger.warning(
            "%s %s for topic %r cannot be sent, attempt %d, again in %.3g s: %s",
            row.message.type,
            row.message.id,
            row.message.topic,
            attempt,
            delay,
            describe(error),
        )
        return Postponed(row.id, describe(error), delay)

    async def _insist(self, write: Callable[[], Awaitable[None]]) -> None:
        """Write until the database takes it."""
        while True:
            try:
                await write()
            except Exception as error:  # noqa: BLE001 - as the store raises what its library does
                self._note(error)
                await asyncio.sleep(_TROUBLE.delay_after(self._failures))
            else:
                self._failures = 0
                return

    def _note(self, trouble: Exception | None) -> None:
        """Remember what is wrong, and log it if that is news."""
        before, self._trouble = self._trouble, trouble
        if trouble is None:
            if before is not None:
                logger.info("%r goes on: %s is over", self, type(before).__name__)
            self._failures = 0
            self._logged.clear()
        else:
            if type(trouble) not in self._logged:
                logger.warning("%r waits and tries again: %s", self, describe(trouble))
            self._failures += 1
            self._logged.add(type(trouble))


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


def _ignore(step: RelayStep) -> None:
    pass


def _log_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("%s stopped by itself", task.get_name(), exc_info=error)
