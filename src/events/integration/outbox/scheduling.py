"""The port that a database implements for scheduled and recurring events.

    scheduled --its time, moved by a relay--> due (a row as any other)
        |  ^
        |  '-- rescheduled, replaced
        '-- cancelled --> (no row)

Moving, cancelling and rescheduling lock the row, so the database decides which one is first, and
each returns its result: a cancelled event is never sent, and an event that may be sent is never
reported as cancelled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime
from typing import Protocol, runtime_checkable

from msgspec import Struct

from events.integration.message import Message
from events.integration.outbox.port import Outbox


class NextSchedule(Struct, frozen=True):
    """The time by the database's clock, and when the next scheduled event is due, if one is."""

    now: datetime
    due_at: datetime | None


@runtime_checkable
class SchedulingStore(Protocol):
    """The scheduled events of an outbox or a bus, for the timekeepers that release them.

    Each method but the first is one short transaction. Any number of processes may call them at
    once.
    """

    def scheduling(self) -> AbstractAsyncContextManager[Outbox]:
        """Yield an outbox in a transaction that commits at the exit."""
        ...

    def listen_for_schedules(self, wake: Callable[[], None]) -> AbstractContextManager[None]:
        """Call `wake`, from any thread, when this process may have committed a schedule.

        It is a hint, as that of `OutboxStore.listen`.
        """
        ...

    async def next_schedule(self) -> NextSchedule:
        """Return the time, and when the next event is due. It must be cheap: it is called often."""
        ...

    async def release(self, limit: int) -> int:
        """Move up to `limit` due events to the rows to send; return how many.

        It skips events that another transaction is cancelling or rescheduling.
        """
        ...

    async def recurred(self, name: str) -> datetime:
        """Return up to which time the occurrences of this recurrence are put; now, if it is new."""
        ...

    async def recur(
        self, name: str, since: datetime, until: datetime, messages: Sequence[Message]
    ) -> bool:
        """Put the occurrences after `since` and up to `until`; return False if another process did.

        The same transaction changes the stored time from `since` to `until`; if the stored time is
        not `since`, it puts nothing.
        """
        ...
