"""The parked rows of an outbox: found, sent after all, discarded. The relay need not be started."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import Literal

from msgspec import Struct

from events.errors import NoSuchParkedRowError
from events.integration.outbox import OutboxRelay, ParkedRow
from events.operations.audit import Audit, record

__all__ = ["OutboxRows", "ParkedSelection"]

_BATCH = 100


class ParkedSelection(Struct, frozen=True, kw_only=True):
    """Parked rows that meet each condition given; without one, all of them.

    As `Selection` is for dead letters. `ids` are the rows' own.
    """

    ids: frozenset[int] | None = None
    topic: str | None = None
    type: str | None = None
    reason: str | None = None
    text: str | None = None
    before: datetime | None = None

    def includes(self, row: ParkedRow) -> bool:
        """Tell whether a row is one of them."""
        return (
            (self.ids is None or row.id in self.ids)
            and (self.topic is None or row.message.topic == self.topic)
            and (self.type is None or row.message.type == self.type)
            and (self.reason is None or row.reason == self.reason)
            and (self.before is None or row.parked_at < self.before)
            and (self.text is None or self.text.casefold() in row.error.casefold())
        )

    def __str__(self) -> str:
        """Name the conditions, for the audit."""
        given = [
            f"{name}={len(self.ids) if name == 'ids' and self.ids else value}"
            for name in self.__struct_fields__
            if (value := getattr(self, name)) is not None
        ]
        return ", ".join(given) or "all"


_EVERYTHING = ParkedSelection()


class OutboxRows:
    """The rows of a relay's outbox, for an operator; see `DeadLetters` for `actor` and `audit`."""

    def __init__(self, relay: OutboxRelay, *, actor: str, audit: Audit | None = None) -> None:
        self._relay = relay
        self._actor = actor
        self._audit = audit

    async def parked(self, selection: ParkedSelection = _EVERYTHING) -> AsyncGenerator[ParkedRow]:
        """Give the rows that could not be sent, in the order of their ids, in flat memory."""
        after: int | None = None
        while page := await self._relay.parked(limit=_BATCH, after=after):
            for row in page:
                if selection.includes(row):
                    yield row
            after = page[-1].id

    async def redrive(self, selection: ParkedSelection) -> int:
        """Have these sent after all, attempts anew; return how many there were.

        Ended half-way, it goes on when it is called again.
        """
        return await self._move("redrive", selection)

    async def discard(self, selection: ParkedSelection) -> int:
        """Delete these for good; otherwise as `redrive`."""
        return await self._move("discard", selection)

    async def _move(self, action: Literal["redrive", "discard"], selection: ParkedSelection) -> int:
        verb = self._relay.redrive if action == "redrive" else self._relay.discard
        done = 0
        outcome: Literal["finished", "stopped", "failed"] = "stopped"
        # All ids first: a row that is parked anew must not be met again.
        async with aclosing(self.parked(selection)) as rows:
            ids = [row.id async for row in rows]
        if not ids:
            return 0
        try:
            for start in range(0, len(ids), _BATCH):
                some = ids[start : start + _BATCH]
                try:
                    done += await verb(some)
                except NoSuchParkedRowError as error:  # somebody else was faster
                    done += len(some) - len(error.ids)
            outcome = "finished"
        except Exception:
            outcome = "failed"
            raise
        finally:
            record(
                self._audit,
                actor=self._actor,
                action=action,
                target="parked rows of the outbox",
                selection=str(selection),
                count=done,
                outcome=outcome,
            )
        return done
