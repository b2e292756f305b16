"""What is written to the table once the bus has answered.

A row that was accepted is removed whoever holds its lane by now. What was refused is written only
under the lease: later the row is another relay's, which may have passed it, or be sending it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime

from events.errors import MessageTooLargeError
from events.integration.message import RETRIES_EXHAUSTED, TOO_LARGE, UNRETRYABLE
from events.integration.outbox._forwarding import Outcome
from events.integration.outbox._order import RowOrder
from events.integration.outbox._trouble import Trouble
from events.integration.outbox.port import (
    UNREADABLE,
    OutboxRow,
    OutboxStore,
    Parked,
    Postponed,
)
from events.integration.pipeline.retry import describe
from events.integration.topology import RetryPolicy

__all__ = ["Settler"]

logger = logging.getLogger("events.integration")


class Settler:
    """Removes what was accepted, postpones or parks what was refused, until the database has it.

    `holds` tells whether the rows are this relay's yet.
    """

    def __init__(
        self,
        store: OutboxStore,
        order: RowOrder,
        retry: RetryPolicy,
        trouble: Trouble,
        holds: Callable[[], bool],
    ) -> None:
        self._holds = holds
        self._store = store
        self._order = order
        self._retry = retry
        self._trouble = trouble

    async def settle(self, outcome: Outcome) -> None:
        """Settle a batch."""
        if outcome.accepted:
            ids = [row.id for row in outcome.accepted]
            await self._trouble.insist(lambda: self._store.remove(ids))
            self._order.over(outcome.accepted)
        if outcome.refused:
            await self._refused(outcome.refused)

    async def unreadable(self, rows: Sequence[OutboxRow]) -> None:
        """Park rows that are not what was put."""
        faults = [(row, row.fault) for row in rows if row.fault is not None]
        await self._park(
            [(row, Parked(row.id, UNREADABLE, describe(e), row.attempts)) for row, e in faults]
        )

    async def defer(self, rows: Sequence[OutboxRow], until: datetime) -> None:
        """Have rows wait for one of their key."""
        ids = [row.id for row in rows]
        if await self._trouble.insist(lambda: self._store.defer(ids, until), while_=self._holds):
            for row in rows:
                self._order.waits(row, until)

    async def _refused(self, refused: Sequence[tuple[OutboxRow, Exception]]) -> None:
        parked: list[tuple[OutboxRow, Parked]] = []
        postponed: list[tuple[OutboxRow, Postponed]] = []
        for row, error in refused:
            attempt, text = row.attempts + 1, describe(error)
            if isinstance(error, MessageTooLargeError):
                parked.append((row, Parked(row.id, TOO_LARGE, text, attempt)))
            elif isinstance(error, self._retry.dead_letter_on):
                parked.append((row, Parked(row.id, UNRETRYABLE, text, attempt)))
            elif attempt >= self._retry.attempts:
                parked.append((row, Parked(row.id, RETRIES_EXHAUSTED, text, attempt)))
            else:
                delay = self._retry.delay_after(attempt)
                postponed.append((row, Postponed(row.id, text, delay)))
                logger.warning(
                    "%s cannot be sent, attempt %d, again in %.3g s: %s",
                    _name(row),
                    attempt,
                    delay,
                    text,
                )
        await self._park(parked)
        await self._postpone(postponed)

    async def _park(self, parked: Sequence[tuple[OutboxRow, Parked]]) -> None:
        if not parked:
            return
        for row, why in parked:
            logger.error(
                "%s cannot be sent and is parked after %d attempts (%s): %s",
                _name(row),
                why.attempts,
                why.reason,
                why.error,
            )
        whys = [why for _, why in parked]
        if await self._trouble.insist(lambda: self._store.park(whys), while_=self._holds):
            self._order.over([row for row, _ in parked])

    async def _postpone(self, postponed: Sequence[tuple[OutboxRow, Postponed]]) -> None:
        if not postponed:
            return
        times: list[datetime] = []

        async def write() -> None:
            times[:] = await self._store.postpone([row for _, row in postponed])

        if await self._trouble.insist(write, while_=self._holds):
            for (row, _), until in zip(postponed, times, strict=True):
                self._order.waits(row, until)


def _name(row: OutboxRow) -> str:
    message = row.message
    return f"{message.type} {message.id} for topic {message.topic!r}"
