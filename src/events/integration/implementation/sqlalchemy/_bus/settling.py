"""Settlements on their way into the tables: those of one moment in one transaction.

    Ack      the row is removed
    Retry    the row is due later, with so many attempts
    Reject   the row moves to the dead letters; where that cannot be, it is due a little later
    Release  nothing: the row is there, for whoever reads its partition next; an attempt that was
             counted beforehand is taken back

It is tried until the database takes it, as a row that was handled and stays would be handled again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
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
from events.integration.pipeline.retry import describe

__all__ = ["Settler"]

logger = logging.getLogger("events.integration")

_Settled: TypeAlias = tuple[Queue, Found, Settlement]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
_DEAD_LETTER_RETRY = 1.0  # seconds until a row is tried again that could not become a dead letter
_LEAVING = 5.0  # seconds


class Settler:
    """Settles rows in batches. `freed` is called after each, `in_outage` before each repeat."""

    def __init__(
        self,
        rows: Rows,
        freed: Callable[[], None],
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
        if row.id in self._gone:
            self._gone.discard(row.id)
            queue.forget(row)
            self._freed()
            return
        self._waiting.append((queue, row, settlement))
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def removed(self, row: int) -> None:
        """Take note that this row, which will be acknowledged, was removed by its handler."""
        self._gone.add(row)

    async def close(self) -> None:
        """Return when all is settled; give up where the database takes nothing for long."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=_LEAVING)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                await self._until_taken(batch)
                for queue, row, settlement in batch:
                    queue.forget(row)
                    if not isinstance(settlement, (Ack, Retry, Reject)):
                        queue.give_back()
                self._freed()
        finally:
            self._task = None

    async def _until_taken(self, batch: Sequence[_Settled]) -> None:
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        done, postponed, refused = _sorted(batch)
        postponed += await self._bury(refused)
        while done or postponed:
            try:
                await self._rows.settle(done, postponed)
            except Exception as error:  # noqa: BLE001 - drivers raise what they do, and it goes on
                self._in_outage(describe(error))
                await backoff.pause()
            else:
                return

    async def _bury(self, refused: Sequence[Refused]) -> list[Postponed]:
        """Make dead letters of these, and return those of which that could not be."""
        if not refused:
            return []
        try:
            await self._rows.bury(refused)
        except Exception as error:  # noqa: BLE001 - as above
            logger.error(  # noqa: TRY400 - the reason is enough
                "%d events cannot become dead letters, and stay in their queues: %s",
                len(refused),
                describe(error),
            )
            return [Postponed(r.id, _DEAD_LETTER_RETRY, r.attempts - 1) for r in refused]
        return []


def _sorted(
    batch: Sequence[_Settled],
) -> tuple[list[int], list[Postponed], list[Refused]]:
    done, postponed, refused = list[int](), list[Postponed](), list[Refused]()
    for _, row, settlement in batch:
        if isinstance(settlement, Ack):
            done.append(row.id)
        elif isinstance(settlement, Retry):
            postponed.append(Postponed(row.id, settlement.after, settlement.attempt))
        elif isinstance(settlement, Reject):
            error = settlement.error
            refused.append(Refused(row.id, settlement.reason, error, settlement.attempts))
        elif row.is_marked:
            postponed.append(Postponed(row.id, 0.0, row.attempts))
    return done, postponed, refused
