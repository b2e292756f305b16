"""Write the outcomes of sends to the table.

An accepted row is removed even if the partition has moved to another relay, and without a limit of
retries: otherwise it would be sent again. A refusal is written only under the lease: after that,
the row belongs to another relay, which may have skipped it, or be sending it.

A row that cannot be written must not block the others, for example if its id is already parked:

    parked with others, again and again --fails--> parked alone --fails--> set aside: postponed
                                                       ^                       |
                                                       '-- refused once more --'

If that cannot be written either, the database is down, and no row is at fault. Refused rows then
stay as if they had not been tried.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

from events.errors import MessageTooLargeError, SendRefusedError
from events.integration.message import TOO_LARGE
from events.integration.observation import current_observer
from events.integration.outbox._forwarding import Outcome
from events.integration.outbox._log_fields import fields_of, name_of
from events.integration.outbox._order import RowOrder
from events.integration.outbox._outage import Outage
from events.integration.outbox.port import (
    UNREADABLE,
    OutboxRow,
    OutboxStore,
    Parked,
    Postponed,
)
from events.integration.pipeline.retry import describe, given_up, is_of
from events.integration.topology import RetryPolicy

logger = logging.getLogger("events.integration")

_TRIES = 6  # attempts of writes that can wait, about three seconds in total
_ASIDE = 60.0  # seconds between retries of a row that can neither be sent nor parked


class Settler:
    """Removes accepted rows, and postpones or parks refused rows, until the database confirms.

    `holds` returns whether the rows still belong to this relay.
    """

    def __init__(
        self,
        store: OutboxStore,
        order: RowOrder,
        retry: RetryPolicy,
        outage: Outage,
        holds: Callable[[], bool],
    ) -> None:
        self._holds = holds
        self._store = store
        self._order = order
        self._retry = retry
        self._outage = outage
        self._set_aside: set[int] = set()

    async def settle(self, outcome: Outcome) -> None:
        """Settle a batch."""
        if outcome.accepted:
            ids = [row.id for row in outcome.accepted]
            await self._outage.insist(lambda: self._store.remove(ids))
            self._forget(outcome.accepted)
        if outcome.refused:
            await self._refused(outcome.refused)

    async def unreadable(self, rows: Sequence[OutboxRow]) -> None:
        """Park rows that cannot be read."""
        faults = [(row, row.fault) for row in rows if row.fault is not None]
        await self._park(
            [(row, Parked(row.id, UNREADABLE, describe(e), row.attempts)) for row, e in faults]
        )

    async def defer(self, rows: Sequence[OutboxRow], until: datetime) -> None:
        """Let rows wait for another row of their key."""
        ids = [row.id for row in rows]
        if await self._outage.insist(lambda: self._store.defer(ids, until), while_=self._holds):
            for row in rows:
                self._order.waits(row, until)

    async def _refused(self, refused: Sequence[tuple[OutboxRow, Exception]]) -> None:
        parked: list[tuple[OutboxRow, Parked]] = []
        postponed: list[tuple[OutboxRow, Postponed]] = []
        for row, error in refused:
            attempt, text = row.attempts + 1, describe(error)
            reason = given_up(self._retry, error, attempt, for_good=SendRefusedError)
            if is_of(error, MessageTooLargeError):
                reason = TOO_LARGE
            if reason is not None:
                parked.append((row, Parked(row.id, reason, text, attempt)))
            else:
                delay = self._retry.delay_after(attempt)
                postponed.append((row, Postponed(row.id, text, delay, attempt)))
                logger.warning(
                    "%s cannot be sent, attempt %d, again in %.3g s: %s",
                    name_of(row),
                    attempt,
                    delay,
                    text,
                    extra=fields_of(row, attempt),
                )
        await self._park(parked)
        await self._postpone(postponed)

    async def _park(self, parked: Sequence[tuple[OutboxRow, Parked]]) -> None:
        together = [(row, why) for row, why in parked if row.id not in self._set_aside]
        alone = [(row, why) for row, why in parked if row.id in self._set_aside]
        if together:
            whys = [why for _, why in together]
            try:
                if await self._write(lambda: self._store.park(whys)):
                    self._have_parked(together)
            except Exception as error:  # noqa: BLE001 - as the store raises what its library does
                logger.debug(
                    "parked one by one, because parking them together failed: %s", describe(error)
                )
                alone += together
        for row, why in alone:
            await self._park_alone(row, why)

    async def _park_alone(self, row: OutboxRow, why: Parked) -> None:
        try:
            if await self._write(lambda: self._store.park([why]), tries=1):
                self._have_parked([(row, why)])
        except Exception as error:  # noqa: BLE001 - as the store raises what its library does
            text = f"{why.error}; and parking it failed: {describe(error)}"
            written = await self._postpone([(row, Postponed(row.id, text, _ASIDE, why.attempts))])
            if written and row.id not in self._set_aside:
                self._set_aside.add(row.id)
                logger.error(  # noqa: TRY400 - the error says enough, in one line
                    "%s can neither be sent nor parked, and is retried every %.3g s: %s",
                    name_of(row),
                    _ASIDE,
                    describe(error),
                    extra=fields_of(row, why.attempts),
                )

    def _have_parked(self, parked: Sequence[tuple[OutboxRow, Parked]]) -> None:
        self._forget([row for row, _ in parked])
        observer = current_observer()
        for row, why in parked:
            if observer is not None:
                observer.parked(row.message, why.reason)
            logger.error(
                "%s cannot be sent and is parked after %d attempt%s (%s): %s",
                name_of(row),
                why.attempts,
                "" if why.attempts == 1 else "s",
                why.reason,
                why.error,
                extra=fields_of(row, why.attempts),
            )

    async def _postpone(self, postponed: Sequence[tuple[OutboxRow, Postponed]]) -> bool:
        if not postponed:
            return True
        times: list[datetime] = []

        async def write() -> None:
            times[:] = await self._store.postpone([row for _, row in postponed])

        written = await self._write(write)
        if written:
            observer = current_observer()
            for (row, why), until in zip(postponed, times, strict=True):
                self._order.waits(row, until)
                if observer is not None:
                    observer.postponed(row.message, why.error, why.delay)
        return written

    async def _write(
        self, write: Callable[[], Awaitable[object]], tries: int | None = None
    ) -> bool:
        return await self._outage.insist(write, while_=self._holds, tries=tries or _TRIES)

    def _forget(self, rows: Sequence[OutboxRow]) -> None:
        self._order.over(rows)
        if self._set_aside:
            self._set_aside.difference_update(row.id for row in rows)
