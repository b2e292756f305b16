"""Find, redrive and discard the parked rows of an outbox. The relay need not be started."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import Literal

from events.errors import NoSuchParkedRowError
from events.integration.outbox import OutboxRelay, ParkedRow
from events.operations.audit import Audit, recorded
from events.operations.selection import Conditions

_BATCH = 100


class ParkedSelection(Conditions, frozen=True, kw_only=True):
    """Parked rows that meet all given conditions; without conditions, all parked rows.

    It is like `Selection` for dead letters. `ids` are ids of rows.
    """

    ids: frozenset[int] | None = None
    topic: str | None = None
    type: str | None = None
    reason: str | None = None
    text: str | None = None
    before: datetime | None = None

    def includes(self, row: ParkedRow) -> bool:
        """Return whether a row meets the conditions."""
        return (
            (self.ids is None or row.id in self.ids)
            and (self.topic is None or row.message.topic == self.topic)
            and (self.type is None or row.message.type == self.type)
            and (self.reason is None or row.reason == self.reason)
            and (self.before is None or row.parked_at < self.before)
            and (self.text is None or self.text.casefold() in row.error.casefold())
        )


_EVERYTHING = ParkedSelection()


class OutboxRows:
    """The rows of a relay's outbox, for an operator; see `DeadLetters` for `actor` and `audit`."""

    def __init__(self, relay: OutboxRelay, *, actor: str, audit: Audit | None = None) -> None:
        self._relay = relay
        self._actor = actor
        self._audit = audit

    async def parked(self, selection: ParkedSelection = _EVERYTHING) -> AsyncGenerator[ParkedRow]:
        """Yield the rows that could not be sent, in the order of their ids, in flat memory."""
        after: int | None = None
        while page := await self._relay.parked(limit=_BATCH, after=after):
            for row in page:
                if selection.includes(row):
                    yield row
            after = page[-1].id

    async def redrive(self, selection: ParkedSelection) -> int:
        """Queue these for sending again, with 0 attempts; return how many there were.

        If it is interrupted, call it again to continue.
        """
        return await self._move("redrive", selection)

    async def discard(self, selection: ParkedSelection) -> int:
        """Delete these; otherwise as `redrive`."""
        return await self._move("discard", selection)

    async def _move(self, action: Literal["redrive", "discard"], selection: ParkedSelection) -> int:
        verb = self._relay.redrive if action == "redrive" else self._relay.discard
        # All ids first: a row that is parked again must not be listed twice.
        async with aclosing(self.parked(selection)) as rows:
            ids = [row.id async for row in rows]
        target = "parked rows of the outbox"
        with recorded(
            self._audit, actor=self._actor, action=action, target=target, selection=selection
        ) as written:
            written.chosen = len(ids)
            for start in range(0, len(ids), _BATCH):
                some = ids[start : start + _BATCH]
                try:
                    written.count += await verb(some)
                except NoSuchParkedRowError as error:  # another process was faster
                    written.count += len(some) - len(error.ids)
        return written.count
