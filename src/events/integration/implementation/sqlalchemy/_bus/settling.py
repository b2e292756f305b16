"""Settlements on their way into the tables: those of one moment in one transaction.

    Ack      the row is removed
    Retry    the row is due later, with so many attempts
    Reject   the row moves to the dead letters; where that cannot be, it is due a little later
    Release  nothing: the row stays, for the next reader of its partition; a crash that was
             counted beforehand is taken back

It is tried until the database takes it, as a row that was handled and stays would be handled again.
Each try is a round trip, which an observer sees as such.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

from events.integration.brokering.backoff import Backoff
from events.integration.implementation.sqlalchemy._bus.queue import Queue
from events.integration.implementation.sqlalchemy._bus.rows import (
    Found,
    Postponed,
    Refused,
    Rows,
)
from events.integration.message import Ack, Reject, Retry, Settlement
from events.integration.observation import current_observer
from events.integration.pipeline.cancelling import ended, failure_of
from events.integration.pipeline.retry import describe

logger = logging.getLogger("events.integration")

_Settled: TypeAlias = tuple[Queue, Found, Settlement]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
_DEAD_LETTER_RETRY = 1.0  # seconds until a row is tried again that could not become a dead letter
_LEAVING = 5.0  # seconds
_MOST = 250  # rows that are gathered for one transaction; half of the widest window, see `queue`
_UNOBSERVED = nullcontext()


class Settler:
    """Settles rows in batches.

    `freed` is called with the queue when rows of it are settled, `in_outage` before each repeat.
    """

    def __init__(
        self,
        rows: Rows,
        freed: Callable[[Queue], None],
        in_outage: Callable[[str], None],
    ) -> None:
        self._rows = rows
        self._freed = freed
        self._in_outage = in_outage
        self._waiting: list[_Settled] = []
        self._gone: set[int] = set()
        self._task: asyncio.Task[None] | None = None

    def settle(self, queue: Queue, row: Found, settlement: Settlement) -> None:
        """Settle a row soon, together with others."""
        if row.row in self._gone:
            self._gone.discard(row.row)
            queue.forget(row)
            self._freed(queue)
            return
        self._waiting.append((queue, row, settlement))
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def removed(self, row: int) -> None:
        """Take note that this row, which will be acknowledged, was removed by its handler."""
        self._gone.add(row)

    async def close(self) -> None:
        """Return when all is settled; give up where the database takes nothing for long."""
        try:
            if self._task is not None:
                await asyncio.wait([self._task], timeout=_LEAVING)
        finally:
            if self._task is not None:
                await ended(self._task)

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                batch, self._waiting = self._waiting, []
                await self._until_taken(batch)
                for queue, row, settlement in batch:
                    queue.forget(row)
                    if not isinstance(settlement, (Ack, Retry, Reject)):
                        queue.give_back()
                for queue in {queue for queue, _, _ in batch}:
                    self._freed(queue)
        finally:
            self._task = None

    async def _gather(self) -> None:
        """Wait while each turn of the event loop settles more: handlers that wait for nothing do.

        What they settle one after another is one statement then.
        """
        before = 0
        while before < len(self._waiting) < _MOST:
            before = len(self._waiting)
            await asyncio.sleep(0)

    async def _until_taken(self, batch: Sequence[_Settled]) -> None:
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        done, postponed, refused = _sorted(batch)
        postponed += await self._to_dead_letters(refused, batch)
        while done or postponed:
            try:
                with self._observed(batch, [*done, *(row.id for row in postponed)]):
                    await self._rows.settle(done, postponed)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - drivers raise what
                self._in_outage(describe(failure_of(error)))  # they do, and it goes on
                await backoff.pause()
            else:
                return

    async def _to_dead_letters(
        self, refused: Sequence[Refused], batch: Sequence[_Settled]
    ) -> list[Postponed]:
        """Make dead letters of these, and return those of which that could not be."""
        if not refused:
            return []
        try:
            with self._observed(batch, [row.id for row in refused]):
                await self._rows.to_dead_letters(refused)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - as above
            failure = failure_of(error)
            logger.error(  # noqa: TRY400 - the reason is enough
                "%d events cannot become dead letters, and stay in their queues: %s",
                len(refused),
                describe(failure),
            )
            return [row.otherwise for row in refused]
        return []

    def _observed(
        self, batch: Sequence[_Settled], rows: Sequence[int]
    ) -> AbstractContextManager[None]:
        observer = current_observer()
        if observer is None:
            return _UNOBSERVED
        these = frozenset(rows)
        deliveries = [row for _, row, _ in batch if row.row in these]
        return observer.settling(deliveries, self._rows.system)


def _sorted(
    batch: Sequence[_Settled],
) -> tuple[list[int], list[Postponed], list[Refused]]:
    done, postponed, refused = list[int](), list[Postponed](), list[Refused]()
    for _, row, settlement in batch:
        if isinstance(settlement, Ack):
            done.append(row.row)
        elif isinstance(settlement, Retry):
            postponed.append(Postponed(row.row, settlement.after, settlement.attempt))
        elif isinstance(settlement, Reject):
            again = settlement.attempts - 1
            if row.crashes:  # the attempts of crashes are recounted each time
                again = row.attempt - 1
            otherwise = Postponed(row.row, _DEAD_LETTER_RETRY, again, row.crashes)
            error, attempts = settlement.error, settlement.attempts
            refused.append(Refused(row.row, settlement.reason, error, attempts, otherwise))
        elif row.is_marked:
            postponed.append(Postponed(row.row, 0.0, row.attempt - 1, row.crashes - 1))
    return done, postponed, refused
