"""The life of a subscription, and the way of a delivery through it, whatever the broker.

    taking --pause--> settling --close--> closed
       '-------- end, as it cannot go on --------> ended, which `wait_closed` raises

    received --hand_over--> in flight --Ack------> ack
                                      --Retry----> retry
                                      --Reject---> dead_letter
                                      --Release--> release

A broker fills in how it takes deliveries and what it does with each settlement. Each of these four
returns at once; what it began is waited for by `settle_all`, within the broker's own limit, and
what has not reached the broker then is redelivered.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from events.integration.brokering.problems import Problems
from events.integration.message import Ack, Delivery, Reject, Retry, Settlement
from events.integration.transport import Deliver

D = TypeVar("D")


class BrokerSubscribed(ABC, Generic[D]):
    """A `Subscribed` over a broker's deliveries in flight; `name` is what its problems log as."""

    def __init__(self, name: str, deliver: Deliver) -> None:
        self._problems = Problems(name)
        self._deliver = deliver
        self._paused = False
        self._handed_over: dict[asyncio.Future[Settlement], D] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def error(self) -> str | None:
        """Return what keeps it from its work at this moment."""
        return self._problems.text

    # --- a delivery's way ---------------------------------------------------------------------

    def hand_over(self, in_flight: D, delivery: Delivery) -> asyncio.Future[Settlement]:
        """Have it handled, as this delivery, and settled then."""
        future = self._deliver(delivery)
        self._handed_over[future] = in_flight
        future.add_done_callback(self._on_settlement)
        return future

    def _on_settlement(self, future: asyncio.Future[Settlement]) -> None:
        self.settle(self._handed_over.pop(future), future.result())

    def settle(self, in_flight: D, settlement: Settlement) -> None:
        """Record its settlement, and `carry_out`."""
        self.carry_out(in_flight, settlement)

    def carry_out(self, in_flight: D, settlement: Settlement) -> None:
        """Carry out its settlement: one of the four below."""
        if isinstance(settlement, Ack):
            self.ack(in_flight)
        elif isinstance(settlement, Retry):
            self.retry(in_flight, settlement)
        elif isinstance(settlement, Reject):
            self.dead_letter(in_flight, settlement)
        else:
            self.release(in_flight)

    @abstractmethod
    def ack(self, in_flight: D) -> None:
        """Have the broker be done with it."""

    @abstractmethod
    def retry(self, in_flight: D, retry: Retry) -> None:
        """Have the broker deliver it again, after a while."""

    @abstractmethod
    def dead_letter(self, in_flight: D, reject: Reject) -> None:
        """Keep it as a dead letter, and then have the broker be done with it."""

    @abstractmethod
    def release(self, in_flight: D) -> None:
        """Return it to the broker as if it had never been delivered."""

    # --- its life -----------------------------------------------------------------------------

    @abstractmethod
    async def pause(self) -> None:
        """See `Subscribed`."""

    @abstractmethod
    async def settle_all(self) -> None:
        """Return when each settlement has reached the broker, or waiting cannot help."""

    async def leave(self) -> None:
        """Give back what is still in flight, and what else the broker keeps for us."""

    async def close(self) -> None:
        """See `Subscribed`."""
        await self.pause()
        await self.settle_all()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self.leave()
        if not self._closed.done():
            self._closed.set_result(None)

    async def wait_closed(self) -> None:
        """See `Subscribed`."""
        await asyncio.shield(self._closed)

    def end(self, error: BaseException) -> None:
        """End by itself: it cannot go on."""
        if not self._closed.done():
            self._closed.set_exception(error)
            self._closed.exception()  # marks it as retrieved

    def on_closed(self, closed: Callable[[], object]) -> None:
        """Have `closed` called when it is closed, or has ended by itself."""
        self._closed.add_done_callback(lambda _: closed())

    def spawn(self, work: Coroutine[Any, Any, None], name: str | None = None) -> asyncio.Task[None]:
        """Do this until `close`; if it fails, which is a mistake of ours, that ends all of it."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.end(error)
