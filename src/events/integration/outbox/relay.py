"""`OutboxRelay`: the process, or the task, that empties an outbox into a bus.

    stopped --startup--> relaying --shutdown--> finishing its batch, leaving --> stopped

While relaying it repeats the turns of `_relay_loop`: it renews its lease, reads what
is due in its partitions, forwards it, and settles. Killed at any point it leaves rows that are sent
again with the same ids, and loses none.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Iterable
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

from events.errors import NoSuchParkedRowError, OutboxError
from events.integration.bus import IntegrationEventBus
from events.integration.outbox._forwarding import ForwardingBus, forward_to
from events.integration.outbox._metrics import Metrics
from events.integration.outbox._options import (
    RelayOptions,
    RelayStep,
    check_count,
    check_in_flight,
    check_name,
    check_seconds,
    check_type,
)
from events.integration.outbox._order import Order
from events.integration.outbox._relay_loop import FIRST_POLL, RelayLoop
from events.integration.outbox._stats import RelayHealth, RelayStats
from events.integration.outbox.partitions import Lease
from events.integration.outbox.port import (
    OutboxStore,
    ParkedRow,
    ScheduledRow,
    WatchedOutboxStore,
)
from events.integration.paging import all_found, check_limit, ids_of
from events.integration.pipeline.lifecycle import LifecycleLock, calling
from events.integration.pipeline.retry import describe
from events.integration.topology import RetryPolicy

__all__ = ["OutboxRelay", "RelayHealth", "RelayStats", "RelayStep"]

T = TypeVar("T")

logger = logging.getLogger("events.integration")

_PURGE = 1_000  # rows that one statement deletes
_PURGE_EVERY = 60.0  # seconds


class OutboxRelay:
    """Publish what is committed to an outbox, at least once, with the ids made at `put`.

    Any number of relays may run on one outbox, here and in other processes: they share its
    partitions, and what one leaves behind the others take over. A relay owns neither the store nor
    the bus: start the bus first and stop it last, as in `async with bus, OutboxRelay(store, bus):`.
    A bus of ours gets the stored bytes; one on the bare port gets decoded events through `send`,
    whose classes must then be imported here.

    With `order="best_effort"` rows leave roughly in the order of their ids, and one that the bus
    refuses delays only itself. With `"per_key"` the events of one key leave in the order of their
    commits, however many relays there are, each confirmed before the next is tried; when one is
    refused, the later ones of its key wait until it is sent or parked. Use one order for all relays
    of an outbox.

    A refused row waits as `retry` says, its error kept beside it. After `retry.attempts` it is
    parked, as one that cannot be read is at once, and stops nobody any more: see `parked`.

    Args:
        store: The rows, for example a `SQLAlchemyOutboxStore`.
        bus: Where they go.
        name: Tells this relay from the others in the table and the log. Two cannot have one name.
        order: `"best_effort"` or `"per_key"`.
        lease: Seconds until the partitions of a relay that died are taken over. It must be longer
            than the bus takes to send, or to give up sending, a batch.
        batch: How many rows are read, forwarded and removed at once.
        batch_bytes: Bytes of bodies that end a batch before it has so many rows. Three batches are
            held at most, each over this by one body: two in flight, and the one read ahead.
        batches_in_flight: 2, or 1 where a repeat does harm, as with mails. What is in flight when a
            relay is killed may have been sent, and is sent again. With 1 that is one batch, at a
            fifth of the throughput: the bus waits while a batch is removed. `"per_key"`, and a
            bus on the bare port, have one in any case.
        poll_interval: Seconds between two looks at an idle table; the net beneath the nudges.
        send_timeout: Seconds for one `send` of a bus on the bare port.
        retry: The delays of a refused row, and after how many attempts it is parked.
        lag_warning: Seconds that the oldest row may wait before a warning is logged.
        keep_parked: How long parked rows are kept. They are kept for ever if None.
        shutdown_grace: Seconds for the batch in flight at the end of `async with`.
        on_step: Called after each step, for tests that stop a relay between two of them.
    """

    def __init__(  # noqa: PLR0913 - options, each with its default
        self,
        store: OutboxStore,
        bus: IntegrationEventBus,
        *,
        name: str | None = None,
        order: Order = "best_effort",
        lease: float = 30.0,
        batch: int = 500,
        batch_bytes: int = 8 << 20,
        batches_in_flight: int = 2,
        poll_interval: float = 2.0,
        send_timeout: float = 30.0,
        retry: RetryPolicy | None = None,
        lag_warning: float = 60.0,
        keep_parked: timedelta | None = None,
        shutdown_grace: float = 10.0,
        on_step: Callable[[RelayStep], None] | None = None,
    ) -> None:
        given: object = store
        if not callable(getattr(given, "due", None)):
            raise TypeError(
                f"OutboxRelay needs an OutboxStore first, such as SQLAlchemyOutboxStore(engine), "
                f"not {type(given).__name__}"
            )
        given = bus
        if not isinstance(given, IntegrationEventBus):
            raise TypeError(
                f"OutboxRelay needs a bus second, an instance of an IntegrationEventBus, "
                f"not {given!r}"
            )
        check_name(name)
        check_seconds("lease", lease, 30)
        check_count("batch", batch, "give it the number of rows to send at once, as in batch=500")
        check_count(
            "batch_bytes",
            batch_bytes,
            "give it the bytes of bodies to read at once, as in batch_bytes=8 * 2**20",
        )
        check_in_flight(batches_in_flight)
        check_seconds("poll_interval", poll_interval, 2)
        check_seconds("send_timeout", send_timeout, 30)
        check_type("retry", retry, RetryPolicy, "RetryPolicy(attempts=3)")
        check_seconds("lag_warning", lag_warning, 60, may_be_zero=True)
        check_type("keep_parked", keep_parked, timedelta, "timedelta(days=30)")
        check_seconds("shutdown_grace", shutdown_grace, 10, may_be_zero=True)
        self._store = store
        self._bus = bus
        self._forward = forward_to(bus, timeout=send_timeout)
        self._poll_interval = poll_interval
        self._shutdown_grace = shutdown_grace
        self._keep_parked = keep_parked
        self._options = RelayOptions(
            name,
            order,
            lease,
            batch,
            batch_bytes,
            poll_interval,
            retry or RetryPolicy(),
            on_step or _ignore,
            pipelined=isinstance(bus, ForwardingBus) and batches_in_flight > 1,
        )
        self._metrics = Metrics(lag_warning)
        self._lifecycle = LifecycleLock()
        self._relay_loop = self._new_relay_loop()
        self._task: asyncio.Task[None] | None = None
        self._purging: asyncio.Task[None] | None = None

    def _new_relay_loop(self) -> RelayLoop:
        return RelayLoop(repr(self), self._store, self._forward, self._options, self._metrics)

    # --- lifecycle ----------------------------------------------------------------------------

    async def check(self) -> None:
        """Look whether the outbox can be used, as `startup` does; the relay need not be started.

        Raises `OutboxTableError` for a table that is missing or of another layout, and
        `OutboxError` for a database that is down.
        """
        try:
            await self._store.check()
        except OutboxError:
            raise
        except Exception as error:  # whatever the database's library raises
            reason = describe(error).splitlines()[0]
            raise OutboxError(
                f"{self!r} cannot use its outbox, is its database up? {reason}"
            ) from error

    async def startup(self) -> None:
        """Check table and bus, and begin, or begin anew if it has ended. Twice does no harm.

        It returns before the relay holds partitions: one that shares them waits until the others
        have given some back, or until the lease of one that died has run out.

        Raises what `check` does, and `BusNotStartedError` for a bus that says it is not started.
        """
        async with self._lifecycle:
            if self._task is not None and not self._task.done():
                self._require_own_loop(self._task, "start")
                return
            await self.check()
            if isinstance(self._bus, ForwardingBus):
                await self._bus.forward([])
            self._relay_loop = self._new_relay_loop()
            self._task = asyncio.create_task(self._relay_loop.run(), name=f"{self!r}")
            self._task.add_done_callback(_log_end)
            if self._purging is not None:  # of the time before, which ended by itself
                self._purging.cancel()
                self._purging = None
            if self._keep_parked is not None:
                self._purging = asyncio.create_task(self._purge(self._keep_parked))

    async def shutdown(self, *, grace: float | None = None) -> None:
        """Let the batch in flight end, then stop. Calling it twice does no harm.

        What outlasts the grace (`shutdown_grace` if None) is given up: its rows stay, and those
        that had been sent already are sent again by the next relay. It does not empty the outbox;
        call `drain` before for that. Its partitions are free for others at once.
        """
        async with self._lifecycle:
            if self._task is None:
                return
            if self._task.done() and self._task.get_loop() is not asyncio.get_running_loop():
                self._task = self._purging = None  # they ended with their loop
                return
            self._require_own_loop(self._task, "shut down")
            self._relay_loop.stop()
            tasks = [task for task in (self._task, self._purging) if task is not None]
            try:
                grace = self._shutdown_grace if grace is None else grace
                await asyncio.wait([self._task], timeout=grace)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                self._task = self._purging = None

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
                    await self._wait_alive(self._running(), stopped)
            finally:
                stopped.cancel()

    async def drain(self) -> None:
        """Return when what was committed before the call has left, through whichever relay.

        Rows that are postponed are not waited for, nor is what others go on writing. It waits while
        bus or database are in outage, so give it a deadline. Raises `OutboxError` if the relay is
        not started, or stops meanwhile.
        """
        relaying, loop, rest = self._running(), self._relay_loop, 0.0
        self._require_own_loop(relaying, "drain")
        newest = await self._ask(relaying, self._store.newest)
        while await self._ask(relaying, lambda: self._store.has_due(newest)):
            turn = loop.next_turn()
            try:
                await self._wait_alive(relaying, turn)
            finally:
                turn.cancel()
            # If nothing left, what is due is in the partitions of another relay.
            rest = 0.0 if turn.result() else min(max(rest * 2, FIRST_POLL), self._poll_interval)
            await asyncio.sleep(rest)

    async def _ask(
        self, relaying: asyncio.Task[None], question: Callable[[], Coroutine[Any, Any, T]]
    ) -> T:
        """Ask the store until it answers, as long as the relay lives."""
        while True:
            asked = asyncio.create_task(question())
            try:
                await self._wait_alive(relaying, asked)
                return asked.result()
            except OutboxError:
                raise
            except Exception as error:  # noqa: BLE001 - as the store raises what its library does
                logger.debug("%r asks again: %s", self, describe(error))
                await asyncio.sleep(self._relay_loop.outage.delay)
            finally:
                asked.cancel()

    def _running(self) -> asyncio.Task[None]:
        if self._task is None:
            raise OutboxError(f"{self!r} is not started; use `async with` or `await startup()`")
        return self._task

    def _require_own_loop(self, relaying: asyncio.Task[None], doing: str) -> None:
        if relaying.get_loop() is not asyncio.get_running_loop():
            raise OutboxError(
                f"cannot {doing}: {self!r} was started in another event loop; use it there "
                f"(`asyncio.run_coroutine_threadsafe` from another thread), or start a relay of "
                f"its own in this one"
            )

    async def _wait_alive(self, relaying: asyncio.Task[None], awaited: asyncio.Future[Any]) -> None:
        await asyncio.wait([awaited, relaying], return_when=asyncio.FIRST_COMPLETED)
        if not awaited.done():
            cause = None if relaying.cancelled() else relaying.exception()
            raise OutboxError(f"{self!r} has stopped") from cause

    # --- watching -----------------------------------------------------------------------------

    def health(self) -> RelayHealth:
        """Say whether the relay lives and what troubles it; cheap enough for a probe."""
        now = asyncio.get_running_loop().time()
        started, loop = self._task is not None, self._relay_loop
        outage = loop.outage.now if started else None
        return RelayHealth(
            started=started,
            alive=self._task is not None and not self._task.done(),
            outage=None if outage is None else describe(outage),
            last_read=None if loop.last_read is None else now - loop.last_read,
            partitions=loop.partitions if started else 0,
        )

    async def stats(self) -> RelayStats:
        """Count the rows of the outbox. This reads the table: ask now and then, not per request."""
        backlog = await self._store.backlog()
        return RelayStats(backlog.pending, backlog.parked, backlog.oldest_age, self._metrics.rate())

    async def scheduled(self, *, limit: int = 100, after: int | None = None) -> list[ScheduledRow]:
        """Return up to `limit` of the rows whose time has not come, in the order of their ids.

        As with `leases`, the relay need not be started. Raises `ValueError` on a limit below 1,
        and `OutboxError` for a store of your own that is no `WatchedOutboxStore`.
        """
        check_limit(f"scheduled rows of {self!r}", limit)
        return list(await self._watched("rows").scheduled(limit=limit, after=after))

    async def leases(self) -> list[Lease]:
        """Return which relays hold which partitions, those whose lease has run out too."""
        return list(await self._watched("leases").leases())

    def _watched(self, what: str) -> WatchedOutboxStore:
        if not isinstance(self._store, WatchedOutboxStore):
            raise OutboxError(
                f"{self._store!r} does not show its {what}: give it the methods of "
                f"WatchedOutboxStore"
            )
        return self._store

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._store!r}, {self._bus!r})"

    # --- parked rows --------------------------------------------------------------------------

    async def parked(self, *, limit: int = 100, after: int | None = None) -> list[ParkedRow]:
        """Return up to `limit` of the rows that could not be sent, in the order of their ids.

        `after` is the id of the last one of the page before. The relay need not be started, as with
        `redrive` and `discard`. Raises `ValueError` on a limit below 1.
        """
        check_limit(f"parked rows of {self!r}", limit)
        return list(await self._store.parked(limit=limit, after=after))

    async def redrive(self, rows: Iterable[ParkedRow | int] | ParkedRow | int) -> int:
        """Have parked rows sent after all, attempts starting anew, and return how many there were.

        They leave behind what waits already. Raises `NoSuchParkedRowError` for those that are not
        there, after the rest was put back.
        """
        ids = ids_of(rows)
        return all_found(ids, await self._store.redrive(ids), NoSuchParkedRowError)

    async def discard(self, rows: Iterable[ParkedRow | int] | ParkedRow | int) -> int:
        """Delete parked rows for good; otherwise as `redrive`."""
        ids = ids_of(rows)
        return all_found(ids, await self._store.discard(ids), NoSuchParkedRowError)

    async def _purge(self, older_than: timedelta) -> None:
        while True:
            try:
                gone = await self._store.purge(older_than, limit=_PURGE)
            except Exception as error:  # noqa: BLE001 - as the store raises what its library does
                logger.warning("%r cannot delete old parked rows: %s", self, describe(error))
                gone = 0
            if gone:
                logger.info("%r deleted %d rows parked over %s ago", self, gone, older_than)
            if gone < _PURGE:
                await asyncio.sleep(_PURGE_EVERY)


def _ignore(step: RelayStep) -> None:
    pass


def _log_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("%s stopped by itself", task.get_name(), exc_info=error)
