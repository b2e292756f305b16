"""The events that wait under a schedule id: found, cancelled, rescheduled. No relay need run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from datetime import UTC, datetime
from typing import Protocol, runtime_checkable

from events.integration.outbox import Outbox, OutboxRelay, ScheduledEvent
from events.operations.audit import Audit, recorded
from events.operations.selection import Conditions

__all__ = ["ScheduleSelection", "ScheduledEvents"]

_BATCH = 100


@runtime_checkable
class Scheduling(Protocol):
    """Opens an outbox in its own transaction: a relay, a bus on a database, a store."""

    def scheduling(self) -> AbstractAsyncContextManager[Outbox]:
        """Yield the outbox, and commit at the exit."""
        ...


class ScheduleSelection(Conditions, frozen=True, kw_only=True):
    """Scheduled events that meet each condition given; without one, all of them.

    `ids` are schedule ids, `prefix` is how they begin, `before` is compared with the event's time.
    """

    ids: frozenset[str] | None = None
    topic: str | None = None
    prefix: str | None = None
    before: datetime | None = None

    def _ids(self, ids: frozenset[str]) -> object:
        return ", ".join(sorted(ids))


_EVERYTHING = ScheduleSelection()


class ScheduledEvents:
    """The scheduled events of an outbox, for an operator; see `DeadLetters` for `actor`, `audit`.

    Args:
        of: Where they wait: an `OutboxRelay` or a bus on a database, which need not be started.
        actor: Who does it.
        audit: What is called with each record.
    """

    def __init__(self, of: Scheduling, *, actor: str, audit: Audit | None = None) -> None:
        self._of = of
        self._actor = actor
        self._audit = audit

    async def find(
        self, selection: ScheduleSelection = _EVERYTHING
    ) -> AsyncGenerator[ScheduledEvent]:
        """Yield those that are chosen, by their numbers or else by their ids, in flat memory."""
        if selection.ids is None:
            async with aclosing(self._pages(selection, selection.prefix)) as found:
                async for each in found:
                    yield each
            return
        for id_ in sorted(selection.ids):
            if id_.startswith(selection.prefix or ""):
                # Not each page of all: a million may wait.
                async with aclosing(self._pages(selection, id_)) as found:
                    async for each in found:
                        if each.schedule_id == id_:
                            yield each
                            break

    async def _pages(
        self, selection: ScheduleSelection, prefix: str | None
    ) -> AsyncGenerator[ScheduledEvent]:
        after: int | None = None
        while True:
            async with self._of.scheduling() as outbox:
                page = await outbox.scheduled(
                    topic=selection.topic,
                    prefix=prefix,
                    before=selection.before,
                    limit=_BATCH,
                    after=after,
                )
            for each in page:
                yield each
            if len(page) < _BATCH:
                return
            after = page[-1].id

    async def cancel(self, selection: ScheduleSelection) -> int:
        """Cancel these, each in a transaction of its own; return how many still waited.

        Ended half-way, it goes on when it is called again.
        """
        return await self._change("cancel", selection, lambda outbox, id_: outbox.cancel(id_))

    async def reschedule(self, selection: ScheduleSelection, when: datetime) -> int:
        """Have these be sent at another time; otherwise as `cancel`."""
        return await self._change(
            f"reschedule to {when.astimezone(UTC).isoformat(timespec='seconds')}",
            selection,
            lambda outbox, id_: outbox.reschedule(id_, when),
        )

    async def _change(
        self,
        action: str,
        selection: ScheduleSelection,
        change: Callable[[Outbox, str], Awaitable[bool]],
    ) -> int:
        async with aclosing(self.find(selection)) as found:
            ids = [each.schedule_id async for each in found]
        place = "outbox" if isinstance(self._of, OutboxRelay) else "bus"
        target = f"scheduled events of the {place}"
        with recorded(
            self._audit, actor=self._actor, action=action, target=target, selection=selection
        ) as written:
            written.chosen = len(ids)
            for each in ids:
                async with self._of.scheduling() as outbox:
                    changed = await change(outbox, each)
                written.count += changed
        return written.count
