"""The loop of one bus: renew, read for consumers with room, rest, repeat.

          .-- lease renewed, partitions given or taken <--- every third of a lease --.
          v                                                                     |
        read, for each consumer with room and more to come --nothing--> rest ---'
          ^                                                              |
          '-------------- those that have something due <-- nudge or poll'

Between two polls nothing is asked, and one poll asks for all consumers of the bus together. What is
handed over is settled meanwhile, see `settling`. An outage of the database costs no row anything:
the loop waits, longer each time, and says so once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from uuid import uuid4

from msgspec import Struct
from msgspec.structs import replace

from events.integration.brokering.backoff import Backoff
from events.integration.brokering.problems import Outage
from events.integration.implementation.sqlalchemy._bus.queue import Queue
from events.integration.implementation.sqlalchemy._bus.rows import Rows
from events.integration.implementation.sqlalchemy._bus.seats import Seats
from events.integration.implementation.sqlalchemy._bus.settling import Settler
from events.integration.implementation.sqlalchemy._bus.sharing import Seat
from events.integration.outbox.partitions import Tenure
from events.integration.pipeline.cancelling import answered, ended, failure_of
from events.integration.pipeline.retry import describe
from events.integration.transport import Deliver, Subscription

logger = logging.getLogger("events.integration")

_FIRST_POLL = 0.01  # seconds; a nudge may come just before its commit is seen, so look again soon
_FEW = 4  # consumers, each of which is asked rather than all at once
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
_EVERY = 1 / 3  # of a lease, between two times that it is renewed
_WAITING = 1 / 100  # of a lease, the same while partitions are missing, or drained
_MARGIN = 0.1  # of a lease, in which nothing is handed over any more
_ANSWER_TIMEOUT = 1 / 4  # of a lease: how long the database may take to answer
_LEAVING = 5.0  # seconds


class PumpOptions(Struct, frozen=True):
    """The poll interval and the duration of a lease, in seconds."""

    poll_interval: float
    lease: float


class Pump:
    """One life of a bus on the tables, from its connection to its end."""

    def __init__(
        self,
        name: str,
        rows: Rows,
        seats: Seats,
        options: PumpOptions,
        listen: Callable[[Callable[[], None]], AbstractAsyncContextManager[None]],
    ) -> None:
        token = uuid4().hex
        member = f"{socket.gethostname()}:{os.getpid()}:{token[:8]}"
        self._rows = rows
        self._seats = seats
        self._options = options
        self._patience = max(options.lease * _ANSWER_TIMEOUT, 1.0)
        self._listen = listen
        self._outage = Outage(name)
        self._seat = Seat(member, token, {}, {}, options.lease, 0.0)
        self._tenure = Tenure()
        self._queues: dict[int, Queue] = {}
        self._settler = Settler(rows, self._freed, self._in_outage)
        self._renew_at = 0.0
        self._poll_at = 0.0
        self._idle = _FIRST_POLL
        self._has_new = False
        self._renewals: list[asyncio.Future[None]] = []
        self._halted = asyncio.Event()
        self._woken = asyncio.Event()
        self._nudged = True
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)

    @property
    def connected(self) -> bool:
        """Return whether the database answers."""
        return self._outage.is_over

    @property
    def error(self) -> str | None:
        """Return why not."""
        return self._outage.reason

    def removed(self, row: int) -> None:
        """See `Settler.removed`."""
        self._settler.removed(row)

    # --- consumers ------------------------------------------------------------------------------

    def subscribe(self, number: int, subscription: Subscription, deliver: Deliver) -> Queue:
        """Begin to hand over what waits for the consumer of this number."""
        queue = Queue(number, subscription, deliver, self._settler.settle)
        self._queues[number] = queue
        self._has_new = True  # so it renews once for all that are subscribed in a row
        self._woken.set()
        if self._task.done():
            self._ended(self._task)
        return queue

    async def close(self, queue: Queue) -> None:
        """Return when all that was handed over is settled, and its partitions are given up."""
        queue.paused = True
        with suppress(TimeoutError):
            async with asyncio.timeout(_LEAVING):
                await queue.empty()
        if self._queues.get(queue.number) is queue:
            del self._queues[queue.number]
            if not self._task.done() and not self._halted.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LEAVING):
                        await self._renew_soon()
        if not queue.closed.done():
            queue.closed.set_result(None)

    async def stop(self) -> None:
        """Settle what is left, give up the seat, and end."""
        try:
            await self._settler.close()
        finally:
            self._halted.set()
            self.wake()
            await asyncio.wait([self._task], timeout=_LEAVING)
            await ended(self._task)
            for waiter in self._renewals:
                waiter.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """End the consumers too, if that was a mistake: nothing would read for them."""
        error = None if task.cancelled() else task.exception()
        if self._halted.is_set() and error is None:
            return
        error = error or RuntimeError("its task was cancelled")
        self._outage.begin("reading", describe(error))
        for queue in self._queues.values():
            if not queue.closed.done():
                queue.closed.set_exception(error)
                queue.closed.exception()  # marks it as retrieved

    async def _renew_soon(self) -> None:
        renewed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._renewals.append(renewed)
        self.wake()
        await renewed

    # --- the loop -------------------------------------------------------------------------------

    def wake(self) -> None:
        """Have it look at once."""
        self._nudged = True
        self._woken.set()

    def _freed(self, queue: Queue) -> None:
        if queue.has_room and (queue.may_have_more or queue.wants_more):
            self._woken.set()

    def _in_outage(self, reason: str) -> None:
        self._outage.begin("settling", reason)
        self._woken.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(self.wake)

        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        async with self._listen(wake):
            while not self._halted.is_set():
                self._woken.clear()
                try:
                    handed_over = await answered(self._turn(), self._patience)
                except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - it goes on
                    self._outage.begin("reading", describe(failure_of(error)))
                    self._nudged = True
                    await self._rest(backoff.take(), self._halted)
                    continue
                self._outage.end("reading")
                self._outage.end("settling")
                backoff.reset()
                if handed_over:
                    self._idle, self._poll_at = _FIRST_POLL, loop.time() + _FIRST_POLL
                    continue
                await self._rest(min(self._poll_at, self._renew_at) - loop.time(), self._woken)
            await self._settler.close()  # of what was handed over since `stop` closed it
            await self._leave()

    async def _turn(self) -> int:
        await self._renew_if_due()
        loop = asyncio.get_running_loop()
        if self._nudged or loop.time() >= self._poll_at:
            idle = _FIRST_POLL if self._nudged else 2 * self._idle
            self._idle = min(idle, self._options.poll_interval)
            self._nudged = False
            await self._poll()
            self._poll_at = loop.time() + self._idle
        return await self._read()

    async def _rest(self, seconds: float, until: asyncio.Event) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0.0)):
                await until.wait()

    async def _renew_if_due(self) -> None:
        loop = asyncio.get_running_loop()
        asked = self._has_new or self._renewals
        wider = any(queue.wants_more for queue in self._queues.values())
        if not asked and not wider and loop.time() < self._renew_at and self._holds:
            return
        waiting, self._renewals = self._renewals, []
        try:
            await self._renew()
        except BaseException:
            self._renewals += waiting
            self._has_new = True
            raise
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    @property
    def _holds(self) -> bool:
        return self._tenure.remaining > self._options.lease * _MARGIN

    async def _renew(self) -> None:
        granted = self._tenure.begin()
        self._has_new = False
        queues = dict(self._queues)
        windows = {n: max(q.widest, len(q.in_flight)) for n, q in queues.items()}
        me = replace(self._seat, windows=windows)
        taken = await self._seats.take(me, {n: q.busy for n, q in queues.items()})
        granted(taken.own.length)
        self._seat = taken.own
        settled = not taken.is_missing
        for number, queue in queues.items():
            queue.grant(taken.held[number], windows[number])
            settled = settled and queue.held.is_settled
        every = _EVERY if settled else _WAITING
        self._renew_at = asyncio.get_running_loop().time() + self._options.lease * every

    async def _poll(self) -> None:
        """Find the consumers with due rows."""
        ready = {n: q for n, q in self._queues.items() if q.has_room and q.held.read}
        if len(ready) <= _FEW:
            for queue in ready.values():
                queue.may_have_more = True
            return
        due = await self._rows.waiting({n: q.held.read for n, q in ready.items()})
        now = asyncio.get_running_loop().time()
        for number, queue in ready.items():
            queue.last_poll = now
            queue.may_have_more = queue.may_have_more or number in due

    async def _read(self) -> int:
        handed_over = 0
        for queue in tuple(self._queues.values()):
            if queue.may_have_more and queue.has_room and queue.held.read:
                if not self._holds:  # the process was paused: renew first
                    return 1
                handed_over += await queue.read(self._rows, self._seat)
        return handed_over

    async def _leave(self) -> None:
        try:
            await answered(self._seats.leave(self._seat), _LEAVING)
        except Exception as error:  # noqa: BLE001 - as the database's driver raises what it does
            logger.info("cannot release the partitions; their lease expires: %s", describe(error))
        self._tenure.end()
