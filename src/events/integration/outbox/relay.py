"""`OutboxRelay`: the process, or the task, that sends the rows of an outbox to a bus.

    stopped --startup--> relaying --shutdown--> finishing its batch, leaving --> stopped

While relaying, it repeats the turns of `_relay_loop`: it renews its lease, reads the due rows of
its partitions, forwards them, and settles. If it is killed at any point, no row is lost; some rows
may be sent again with the same ids.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from events.errors import NoSuchParkedRowError, OutboxError, OutboxTableError
from events.integration.bus import IntegrationEventBus
from events.integration.outbox._forwarding import ForwardingBus, forward_to
from events.integration.outbox._metrics import Metrics
from events.integration.outbox._options import RelayOptions, RelayStep, check_arguments
from events.integration.outbox._order import Order
from events.integration.outbox._purging import purge
from events.integration.outbox._relay_loop import FIRST_POLL, RelayLoop
from events.integration.outbox._stats import RelayHealth, RelayStats
from events.integration.outbox._timeouts import timeout
from events.integration.outbox.partitions import Lease
from events.integration.outbox.port import (
    Outbox,
    OutboxStore,
    ParkedRow,
    ScheduledRow,
    SearchedOutboxStore,
    WaitingRow,
    WatchedOutboxStore,
)
from events.integration.outbox.scheduling import SchedulingStore
from events.integration.outbox.timekeeper import Timekeeper, check_recurring
from events.integration.paging import all_found, check_limit, ids_of
from events.integration.pipeline.cancelling import Background, answered, ended, failure_of
from events.integration.pipeline.lifecycle import LifecycleLock, calling
from events.integration.pipeline.retry import describe
from events.integration.topology import RetryPolicy

if TYPE_CHECKING:  # it needs an extra
    from events.integration.outbox.recurring import Recurring
else:
    Recurring = object  # for code that resolves annotations at run time, such as containers

__all__ = ["OutboxRelay", "RelayHealth", "RelayStats", "RelayStep"]

T = TypeVar("T")

logger = logging.getLogger("events.integration")


class OutboxRelay:
    """Send the committed events of an outbox, at least once, with the ids made at `put`.

    Any number of relays may run on one outbox, in any processes: they share its partitions, and
    take over those of a relay that stops or dies. A relay owns neither the store nor the bus: start
    the bus first and stop it last, as in `async with bus, OutboxRelay(store, bus):`. A bus over a
    transport gets the stored bytes. Any other `IntegrationEventBus` gets decoded events through
    `send`, so this process must import their classes.

    With `order="best_effort"`, rows are sent roughly in the order of their ids, and a row that the
    bus refuses delays only itself. With `"per_key"`, the events of one key are sent in the order of
    their commits, with any number of relays, each confirmed before the next is sent; after a
    refusal, the later ones of its key wait until it is sent or parked. Use one order for all relays
    of an outbox.

    A refused row is retried after the delays of `retry`, with its error stored. After
    `retry.attempts` it is parked, and no other row waits for it any more; a row that cannot be read
    is parked immediately. See `parked`.

    Args:
        store: The rows, for example a `SQLAlchemyOutboxStore`.
        bus: The bus that sends them.
        name: Identifies this relay in the table and the log. It must be unique; by default it is.
        order: `"best_effort"` or `"per_key"`.
        lease: Seconds until other relays take over the partitions of a relay that died. It must be
            longer than the bus takes to send, or to fail to send, a batch.
        batch: How many rows are read, forwarded and removed at once.
        batch_bytes: Bytes of bodies that end a batch earlier. The relay has at most three batches
            in memory, each over this by at most one body: two in flight, and one read ahead.
        batches_in_flight: 2, or 1 if a repeat does harm, as with mails. Batches in flight when a
            relay is killed may be sent again. 1 has a fifth of the throughput, because the bus
            waits while a batch is removed. It is always 1 with `"per_key"`, and with a bus that
            is not over a transport.
        poll_interval: Seconds between two polls of an idle table, in case a notification is lost.
        send_timeout: Seconds for one `send` of a bus that is not over a transport.
        retry: The delays of a refused row, and the attempts after which it is parked.
        lag_warning: Seconds that the oldest row may wait before a warning is logged.
        keep_parked: How long parked rows are kept; None keeps them without limit.
        shutdown_grace: Seconds for the batch in flight at the end of `async with`.
        recurring: Recurring events, see `events.recurring`. Pass the same to all relays of an
            outbox: one of them puts each occurrence.
        on_step: Called after each step, for tests that stop a relay between two steps.
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
        recurring: Iterable[Recurring] = (),
        on_step: Callable[[RelayStep], None] | None = None,
    ) -> None:
        check_arguments(
            store,
            bus,
            name=name,
            lease=lease,
            batch=batch,
            batch_bytes=batch_bytes,
            batches_in_flight=batches_in_flight,
            poll_interval=poll_interval,
            send_timeout=send_timeout,
            retry=retry,
            lag_warning=lag_warning,
            keep_parked=keep_parked,
            shutdown_grace=shutdown_grace,
        )
        self._recurring = check_recurring(recurring)
        if self._recurring and not isinstance(store, SchedulingStore):
            raise TypeError(f"OutboxRelay: recurring needs a SchedulingStore, not {store!r}")
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
        self._besides: list[Background] = []
        self._timekeeper: Timekeeper | None = None

    def _new_relay_loop(self) -> RelayLoop:
        return RelayLoop(repr(self), self._store, self._forward, self._options, self._metrics)

    def _new_timekeeper(self, store: SchedulingStore) -> Timekeeper:
        return Timekeeper(
            repr(self),
            store,
            poll_interval=self._poll_interval,
            timeout=timeout(self._options.lease),
            released=lambda: self._options.on_step("released"),
            recurring=self._recurring,
        )

    # --- lifecycle ----------------------------------------------------------------------------

    async def check(self) -> None:
        """Check that the outbox can be used, as `startup` does; the relay need not be started.

        Raises `OutboxTableError` if a table is missing or has another layout, and `OutboxError` if
        the database is down.
        """
        try:
            await self._store.check()
        except OutboxError:
            raise
        except Exception as error:  # whatever the database's library raises
            reason = describe(error).splitlines()[0]
            raise OutboxError(
                f"{self!r} cannot use its outbox; is its database up? {reason}"
            ) from error

    async def startup(self) -> None:
        """Check table and bus, and start, or restart after it has ended. Idempotent.

        It returns before the relay holds partitions: with other relays, it waits until they release
        some, or until the lease of a dead relay expires.

        Raises the errors of `check`, and `BusNotStartedError` if the bus is not started.
        """
        async with self._lifecycle:
            if self._task is not None and not self._task.done():
                self._require_own_loop(self._task, "start")
                return
            await self.check()
            if isinstance(self._bus, ForwardingBus):
                await self._bus.forward([])
            await self._end_besides()  # of the time before, which ended by itself
            self._relay_loop = self._new_relay_loop()
            self._task = asyncio.create_task(self._relay_loop.run(), name=f"{self!r}")
            self._task.add_done_callback(_log_end)
            if self._keep_parked is not None:
                purging = partial(purge, self._store, self._keep_parked, repr(self))
                self._besides.append(Background(purging))
            if isinstance(self._store, SchedulingStore):
                self._timekeeper = self._new_timekeeper(self._store)
                self._besides.append(Background(self._timekeeper.run))

    async def shutdown(self, *, grace: float | None = None) -> None:
        """Wait for the batch in flight, then stop. A second call has no effect.

        A batch that exceeds the grace (`shutdown_grace` if None) is cancelled: its rows stay in the
        table, and the next relay sends them again, also those that had already been sent. The
        partitions are released immediately. It does not empty the outbox; call `drain` before, if
        you want that.
        """
        async with self._lifecycle:
            if self._task is None:
                await self._end_besides()  # of a shutdown that was cancelled
                return
            if self._task.done() and self._task.get_loop() is not asyncio.get_running_loop():
                self._task, self._besides = None, []  # they ended with their loop
                return
            self._require_own_loop(self._task, "shut down")
            self._relay_loop.stop()
            for each in self._besides:
                each.stop()
            try:
                grace = self._shutdown_grace if grace is None else grace
                await asyncio.wait([self._task], timeout=grace)
            finally:
                await ended(self._task)
                self._task = None
                await self._end_besides()

    async def _end_besides(self) -> None:
        while self._besides:
            await self._besides[-1].end()
            self._besides.pop()

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
        """Start, relay until one of the signals arrives, then shut down.

        Raises `OutboxError` if the relay ends by itself, so that its process ends too. Cancelling
        this also shuts down.
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
        """Return when all rows that were committed before the call are sent, by any relay.

        It does not wait for postponed rows, nor for rows committed later. It waits during an outage
        of the bus or the database, so use a deadline. Raises `OutboxError` if the relay is not
        started, or stops meanwhile.
        """
        relaying, loop, rest = self._running(), self._relay_loop, 0.0
        self._require_own_loop(relaying, "drain")
        if self._timekeeper is not None:
            await self._ask(relaying, self._timekeeper.tick)
        within = timeout(self._options.lease)
        newest = await self._ask(relaying, lambda: answered(self._store.newest(), within))
        while await self._ask(relaying, lambda: answered(self._store.has_due(newest), within)):
            turn = loop.next_turn()
            try:
                await self._wait_alive(relaying, turn)
            finally:
                turn.cancel()
            # If no row was sent, the due rows are in the partitions of another relay.
            rest = 0.0 if turn.result() else min(max(rest * 2, FIRST_POLL), self._poll_interval)
            await asyncio.sleep(rest)

    async def _ask(
        self, relaying: asyncio.Task[None], question: Callable[[], Coroutine[Any, Any, T]]
    ) -> T:
        """Query the store until it answers, as long as the relay is alive."""
        while True:
            asked = asyncio.create_task(question())
            try:
                await self._wait_alive(relaying, asked)
            finally:
                asked.cancel()
            try:
                return asked.result()
            except OutboxTableError:
                raise
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - drivers raise what
                logger.debug("%r retries: %s", self, describe(failure_of(error)))  # they do
                await asyncio.sleep(self._relay_loop.outage.delay)

    def _running(self) -> asyncio.Task[None]:
        if self._task is None:
            raise OutboxError(f"{self!r} is not started; use `async with` or `await startup()`")
        return self._task

    def _require_own_loop(self, relaying: asyncio.Task[None], doing: str) -> None:
        if relaying.get_loop() is not asyncio.get_running_loop():
            raise OutboxError(
                f"cannot {doing}: {self!r} was started in another event loop; use it there "
                f"(`asyncio.run_coroutine_threadsafe` from another thread), or start another "
                f"relay in this loop"
            )

    async def _wait_alive(self, relaying: asyncio.Task[None], awaited: asyncio.Future[Any]) -> None:
        await asyncio.wait([awaited, relaying], return_when=asyncio.FIRST_COMPLETED)
        if not awaited.done():
            cause = None if relaying.cancelled() else relaying.exception()
            raise OutboxError(f"{self!r} has stopped") from cause

    # --- watching -----------------------------------------------------------------------------

    def health(self) -> RelayHealth:
        """Return whether the relay is alive, and its outage, if any; cheap enough for a probe."""
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
        """Count the rows of the outbox. It reads the table: do not call it for each request."""
        backlog = await self._store.backlog()
        return RelayStats(backlog.pending, backlog.parked, backlog.oldest_age, self._metrics.rate())

    async def scheduled(self, *, limit: int = 100, after: int | None = None) -> list[ScheduledRow]:
        """Return up to `limit` of the rows that are not due yet, in the order of their ids.

        As with `leases`, the relay need not be started. Raises `ValueError` for a limit below 1,
        and `OutboxError` for a store that does not implement `WatchedOutboxStore`.
        """
        check_limit(f"scheduled rows of {self!r}", limit)
        return list(await self._watched("rows").scheduled(limit=limit, after=after))

    async def leases(self) -> list[Lease]:
        """Return the leases of all relays with their partitions, including expired leases."""
        return list(await self._watched("leases").leases())

    async def waiting_of(self, correlation_id: str, *, limit: int = 100) -> list[WaitingRow]:
        """Return up to `limit` of the rows of this correlation id that were not sent yet.

        It scans the whole backlog. Otherwise as `scheduled`; the store must implement
        `SearchedOutboxStore`.
        """
        check_limit(f"rows of {self!r}", limit)
        if not isinstance(self._store, SearchedOutboxStore):
            raise OutboxError(
                f"{self._store!r} cannot search its rows: implement SearchedOutboxStore in it"
            )
        return list(await self._store.waiting_of(correlation_id, limit=limit))

    def scheduling(self) -> AbstractAsyncContextManager[Outbox]:
        """Yield an outbox in a transaction that commits at the exit, to cancel and list schedules.

        For operators; the application uses its own transactions. The relay need not be started.
        Raises `OutboxError` for a store that does not implement `SchedulingStore`.
        """
        if not isinstance(self._store, SchedulingStore):
            raise OutboxError(f"{self._store!r} cannot schedule: implement SchedulingStore in it")
        return self._store.scheduling()

    def _watched(self, what: str) -> WatchedOutboxStore:
        if not isinstance(self._store, WatchedOutboxStore):
            raise OutboxError(
                f"{self._store!r} does not show its {what}: implement WatchedOutboxStore in it"
            )
        return self._store

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._store!r}, {self._bus!r})"

    # --- parked rows --------------------------------------------------------------------------

    async def parked(self, *, limit: int = 100, after: int | None = None) -> list[ParkedRow]:
        """Return up to `limit` of the rows that could not be sent, in the order of their ids.

        `after` is the last id of the previous page. The relay need not be started, as with
        `redrive` and `discard`. Raises `ValueError` for a limit below 1.
        """
        check_limit(f"parked rows of {self!r}", limit)
        return list(await self._store.parked(limit=limit, after=after))

    async def redrive(self, rows: Iterable[ParkedRow | int] | ParkedRow | int) -> int:
        """Queue parked rows for sending again, with 0 attempts; return how many there were.

        They are sent after the rows that wait already. Raises `NoSuchParkedRowError` for rows that
        do not exist, after the others were put back.
        """
        ids = ids_of(rows)
        return all_found(ids, await self._store.redrive(ids), NoSuchParkedRowError)

    async def discard(self, rows: Iterable[ParkedRow | int] | ParkedRow | int) -> int:
        """Delete parked rows; otherwise as `redrive`."""
        ids = ids_of(rows)
        return all_found(ids, await self._store.discard(ids), NoSuchParkedRowError)


def _ignore(step: RelayStep) -> None:
    pass


def _log_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("%s stopped by itself", task.get_name(), exc_info=error)
