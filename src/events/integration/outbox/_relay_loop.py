"""The loop of a relay: renew, read, forward, settle, and again.

          .---------------- lease renewed, partitions given or taken <----------------.
          v                                                                      |
        read --rows--> forward --outcome--> settle --every third of a lease--> renew
          |                                                                      ^
          '-- nothing due --> idle --nudge or poll-------------------------------'

- renew: one short transaction that keeps its partitions, see `partitions`.
- read: one select of what is due in its partitions, without claims and outside of any write
  transaction.
- forward: many in flight, each confirmed by the broker, with no transaction open, and given up
  before the lease runs out. A relay that finds its lease run out, as it was paused, goes back to
  renew. While it forwards, the next batch is read.
- settle: one short delete of what was accepted; what was refused is postponed, in the end parked.
  This is tried until the database takes it, as a row that was sent and stays would be sent again;
  of what was refused it is not, see `_settling`.

While one batch is forwarded and settled, the next may be forwarded too, and the one after it read:

    n + 2                                       read ahead | forwarded ...
    n + 1        read ahead | forwarded ----------- | settled ---- |
    n     read | forwarded ------------ | settled - |
                                                    '-- before n + 1 is settled, n + 2 sent

A batch is *in flight* from when it is forwarded until it is settled; there are two at most. Rows in
flight are in the table yet, and must not be read again. So a batch is left in flight only if the
next has been read on behind it; all else waits for it: a scan, renewing (so partitions change hands
with nothing in flight), starting over after an outage, the idle rest, and the end. `per_key` never
reads ahead, and a bus on the bare port takes one event after another, so there it is one batch, as
with `batches_in_flight=1`.

An outage of the database or the bus costs no row anything; a database that does not answer is one
too, see `_timeouts`. The relay waits, longer each time, and tries again; it logs each kind of
outage once when it comes, and once when all is well again.
Killed at any point it leaves rows that are sent again with the same ids, of two batches at most,
and loses none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from events.errors import RelayNameTakenError
from events.integration.outbox._forwarding import Forward, forward_in_waves
from events.integration.outbox._log_fields import log_sent
from events.integration.outbox._membership import Membership
from events.integration.outbox._metrics import Metrics
from events.integration.outbox._options import RelayOptions
from events.integration.outbox._order import order_named
from events.integration.outbox._outage import Outage
from events.integration.outbox._reading import Reader
from events.integration.outbox._settling import Settler
from events.integration.outbox._timeouts import timeout
from events.integration.outbox.port import OutboxRow, OutboxStore
from events.integration.pipeline.cancelling import answered, ended, failure_of
from events.integration.pipeline.retry import describe

logger = logging.getLogger("events.integration")

FIRST_POLL = 0.01  # seconds; a nudge may come just before its commit is seen, so look again soon
_LEAVING = 5.0  # seconds


class RelayLoop:
    """One life of a relay: from its start, in one event loop, to its end.

    `who` is the relay as it is named in the log.
    """

    def __init__(
        self,
        who: str,
        store: OutboxStore,
        forward: Forward,
        options: RelayOptions,
        metrics: Metrics,
    ) -> None:
        self._who = who
        self._store = store
        self._forward = forward
        self._poll_interval = options.poll_interval
        self._on_step = options.on_step
        self._metrics = metrics
        self._order = order_named(options.order)
        self._membership = Membership(store, options.name, options.lease)
        self._timeout = timeout(options.lease)
        self._reader = Reader(
            store,
            options.batch,
            scans_only=self._order.strict,
            max_bytes=options.batch_bytes,
            timeout=self._timeout,
        )
        self.outage = Outage(who, self._timeout)
        self._settler = Settler(
            store, self._order, options.retry, self.outage, lambda: self._membership.holds
        )
        self._stopping = asyncio.Event()
        self._woken = asyncio.Event()
        self._turns: list[asyncio.Future[int]] = []
        self._pipelined = options.pipelined
        self._in_flight: list[asyncio.Task[None]] = []
        self._met: Exception | None = None  # the outage of a batch in flight
        self._left = 0
        self._busy = False
        self._is_renewed = False
        self.last_read: float | None = None

    @property
    def partitions(self) -> int:
        """Return how many partitions it holds."""
        return len(self._membership.lease.partitions)

    def stop(self) -> None:
        """Have it end after the batch in flight."""
        self._stopping.set()
        self._woken.set()

    def next_turn(self) -> asyncio.Future[int]:
        """Return what will be the number of rows that left in a turn that begins from now on.

        Cancel it to give up.
        """
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        turn.add_done_callback(self._forget)
        self._turns.append(turn)
        self._woken.set()
        return turn

    def _forget(self, turn: asyncio.Future[int]) -> None:
        self._turns = [other for other in self._turns if other is not turn]

    async def run(self) -> None:
        """Go round until it is stopped, then give the partitions back."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(self._woken.set)

        idle = FIRST_POLL
        async with self._store.listen(wake):
            try:
                while not self._stopping.is_set():
                    self._woken.clear()
                    sent = await self._turn()
                    renew_in = self._membership.renew_in
                    if self.outage.now is not None:
                        # A lease that cannot be renewed is no reason to try without a rest.
                        rest = min(self.outage.delay, renew_in or self.outage.delay)
                        await _wait(self._stopping, rest)
                    elif self._reader.caught_up:
                        idle = FIRST_POLL if sent else min(idle * 2, self._poll_interval)
                        scan_in = self._reader.scan_in
                        rest = idle if scan_in is None else min(idle, scan_in)
                        if await _wait(self._woken, min(rest, renew_in)):
                            idle = FIRST_POLL
                await self._landed()
            except asyncio.CancelledError:
                await self._give_up()
                raise
            finally:
                await self._leave()

    async def _turn(self) -> int:
        """Renew if it is time, then read, forward and settle once; return how many rows left."""
        turns, self._turns = self._turns, []
        outage: Exception | None = None
        try:
            await self._go_round()
            if not self._reader.has_read_ahead:
                await self._landed()
            outage = self._met
        except RelayNameTakenError as error:
            if error.alive:
                raise
            outage = error
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - never quietly dead
            outage = failure_of(error)
        if outage is not None:
            await self._start_over()
        self._met = None
        sent, self._left = self._left, 0
        self.outage.note(outage)
        for turn in turns:
            if not turn.done():
                turn.set_result(sent)
        return sent

    async def _go_round(self) -> None:
        # Rows of partitions of which it is not known what waits in them would leave out of order.
        if self._membership.renew_in <= 0 or not self._is_renewed:
            await self._renew()
        if not self._membership.lease.partitions:
            return
        rows = await self._reader.next(self._membership.lease)
        self.last_read = asyncio.get_running_loop().time()
        if rows:
            self._busy = True
            await self._pass_on(rows)

    async def _renew(self) -> None:
        await self._landed()
        self._is_renewed = False
        if await self._membership.renew():
            await self._reader.start_over()
        if self._order.strict:
            # Each time, as a row that others wait for may have been deleted by hand.
            waiting = self._store.waiting(self._membership.lease)
            self._order.learn(await answered(waiting, self._timeout))
        self._is_renewed = True
        if self._busy:
            self._busy = False
            self._metrics.lag(await answered(self._store.oldest_age(), self._timeout))
        self._on_step("renewed")

    async def _pass_on(self, rows: Sequence[OutboxRow]) -> None:
        self._on_step("selected")
        if self._membership.sending_time <= 0:
            logger.warning("%s was paused for longer than its lease and renews it", self._who)
            await self._start_over()
            return
        await self._settler.unreadable(rows)
        plan = self._order.plan([row for row in rows if row.fault is None])
        for until, deferred in plan.deferred.items():
            await self._settler.defer(deferred, until)
        self._reader.read_ahead(self._membership.lease)
        before = self._in_flight[-1] if self._in_flight else None
        self._in_flight.append(asyncio.create_task(self._carry(plan.waves, before)))
        await self._landed(but=1 if self._pipelined else 0)

    async def _carry(
        self, waves: Sequence[Sequence[OutboxRow]], before: asyncio.Task[None] | None
    ) -> None:
        """Forward a batch, and settle it once the one before it is settled."""
        try:
            outcome = await forward_in_waves(
                self._forward, waves, lambda: self._membership.sending_time
            )
            self._on_step("sent")
            log_sent(outcome.accepted)
            if before is not None:
                await asyncio.wait([before])
            self._met = self._met or outcome.outage
            self._left += len(outcome.accepted)
            self._metrics.sent(len(outcome.accepted))
            await self._settler.settle(outcome)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the batch behind it is
            self._met = self._met or failure_of(error)  # carried all the same
        self._on_step("removed")

    async def _landed(self, but: int = 0) -> None:
        """Wait until no more than so many batches are in flight."""
        while len(self._in_flight) > but:
            await asyncio.wait(self._in_flight[:1])
            batch = self._in_flight.pop(0)
            if not batch.cancelled():
                batch.result()

    async def _start_over(self) -> None:
        await self._landed()
        await self._reader.start_over()

    async def _leave(self) -> None:
        try:
            await answered(self._release(), _LEAVING)
        except Exception as error:  # noqa: BLE001 - as the store raises what its library does
            logger.info(
                "%s could not release its lease, which will expire: %s",
                self._who,
                describe(error),
            )
        finally:
            await self._give_up()
            await self._reader.give_up()

    async def _release(self) -> None:
        await self._start_over()
        await self._membership.leave()

    async def _give_up(self) -> None:
        await asyncio.gather(*(ended(batch) for batch in self._in_flight))


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
