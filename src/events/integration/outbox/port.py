"""The outbox's port for users, and the port that a database implements.

A row is in one of these states. A sent row is deleted, so the table holds only the backlog.

    (no row) --put, and the user's commit--> due --accepted by the bus--> (no row)
                                             ^ |
                            `available_at`   | | refused by the bus: attempts + 1, error kept
                                             | v
                                           postponed
                                               | refused for the last time, or unreadable
                                               v
           due <--redrive, attempts at 0--  parked  --discard--> (no row)

`put` with `available_at` makes a postponed row. With a `schedule_id`, the row waits in a separate
table, where it can be cancelled, until a relay moves it to the outbox at its time: see
`scheduling`. A broker that is down changes no row. Parked rows are in a separate table, so they do
not slow down the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Protocol, runtime_checkable

from msgspec import Struct

from events.errors import OutboxError
from events.integration.event import IntegrationEvent
from events.integration.message import Message
from events.integration.outbox.partitions import Lease, Renewal
from events.integration.topology import Topic

UNREADABLE = "unreadable"
"""The reason of a parked row that cannot be read. Other reasons are those of dead letters."""


class Outbox(Protocol):
    """An outbox: an event that is put here is sent if, and only if, the transaction commits."""

    async def put(
        self,
        topic: Topic,
        event: IntegrationEvent,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        available_at: datetime | None = None,
        schedule_id: str | None = None,
        replace: bool = False,
    ) -> str:
        """Store the event in the transaction of this outbox, and return its id.

        The id is made here and never changes. Within a handler, the event inherits the correlation
        id of the current delivery. `key` groups events whose order matters. The event is not sent
        before `available_at`, which needs a time zone.

        With a `schedule_id`, such as `"invoice-7:reminder"`, you can cancel or reschedule it until
        then. At most one event waits under an id; with `replace`, the new event replaces it. The
        id can be used again once the event is due.

        Raises:
            EventEncodeError: the event has no JSON form.
            MessageTooLargeError: its body exceeds the outbox's limit.
            ScheduleIdTakenError: an event waits under this id, and `replace` is false.
        """
        ...

    async def cancel(self, schedule_id: str) -> bool:
        """Cancel the event that waits under this id; return whether there was one.

        True: once this transaction commits, the event is never sent. False: no event waits under
        the id; if there was one, it became due and is being sent or was sent.
        """
        ...

    async def reschedule(self, schedule_id: str, when: datetime) -> bool:
        """Change the time of the event that waits under this id; return whether there was one."""
        ...

    async def scheduled(
        self,
        *,
        topic: Topic | str | None = None,
        prefix: str | None = None,
        before: datetime | None = None,
        limit: int = 100,
        after: int | None = None,
    ) -> list[ScheduledEvent]:
        """Return up to `limit` of the events that wait under a schedule id, by their numbers.

        It sees the changes of this transaction: events that it scheduled, and none that it
        cancelled. `after` is the last `id` of the previous page. The other arguments select by
        topic, by the beginning of the schedule id, and by time.
        """
        ...


class OutboxRow(Struct, frozen=True):
    """A message that waits. `attempts` counts how often the bus has refused it.

    `was_postponed` is true if the row had a time before which it must not be sent. `fault` says why
    a store cannot read the row: such a row is parked unsent.
    """

    id: int
    message: Message
    attempts: int = 0
    was_postponed: bool = False
    fault: OutboxError | None = None


class Postponed(Struct, frozen=True):
    """The update of a row that the bus refused: reason, delay in seconds, attempts so far."""

    id: int
    error: str
    delay: float
    attempts: int


class Parked(Struct, frozen=True):
    """The update of a row that is parked after so many `attempts`."""

    id: int
    reason: str
    error: str
    attempts: int


class ParkedRow(Struct, frozen=True):
    """A row that could not be sent, with the reason. Times have a zone."""

    id: int
    message: Message
    reason: str
    error: str
    attempts: int
    created_at: datetime
    parked_at: datetime


class ScheduledRow(Struct, frozen=True, kw_only=True):
    """A row that is not due yet, without its body.

    `error` says why it waits: the bus refused it, or it waits for an earlier event of its key. It
    is None if the row was put with `available_at`.
    """

    id: int
    event_id: str
    topic: str
    type: str
    key: str | None
    available_at: datetime
    attempts: int
    error: str | None


class ScheduledEvent(Struct, frozen=True, kw_only=True):
    """An event that waits under a schedule id, without its body. `id` is its number in the table.

    If it is replaced, its number stays the same, and its `event_id` changes.
    """

    id: int
    schedule_id: str
    event_id: str
    topic: str
    type: str
    key: str | None
    available_at: datetime


class WaitingRow(Struct, frozen=True, kw_only=True):
    """A row that is not sent yet, with its message. `error` says why the bus refused it."""

    id: int
    message: Message
    created_at: datetime
    available_at: datetime
    attempts: int
    error: str | None


class Backlog(Struct, frozen=True):
    """The contents of an outbox: rows, and how many seconds the oldest due row has waited."""

    pending: int
    parked: int
    oldest_age: float


class OutboxStore(Protocol):
    """The port of the outbox's tables, for relays. Used from one event loop.

    Each method is one short transaction. Errors of the database's library are raised unchanged;
    the relay retries.
    """

    async def check(self) -> None:
        """Raise `OutboxTableError` unless the tables exist with all columns."""
        ...

    # --- leases -------------------------------------------------------------------------------

    async def renew(self, decide: Callable[[Sequence[Lease]], Renewal]) -> Renewal:
        """Pass all leases to `decide` and write its decision, under the lock of all relays.

        `remaining` is by the database's clock, read after the lock was taken.
        """
        ...

    async def leave(self, lease: Lease) -> None:
        """Delete this lease, if it still exists."""
        ...

    # --- rows ---------------------------------------------------------------------------------

    async def due(
        self,
        lease: Lease,
        limit: int,
        *,
        after: int | None = None,
        max_bytes: int | None = None,
    ) -> Sequence[OutboxRow]:
        """Return due rows of the lease's partitions, in the order of their ids.

        There are fewer than `limit` if there are no more, or if their bodies have `max_bytes`: the
        row that reaches this size is the last, separately for postponed rows and for the others.
        Only these bodies are read from the database. There are none if the lease is no longer in
        the table. A row that cannot be read has a `fault`; it does not raise, because it must not
        block the others. All committed rows are visible, including those with lower ids than rows
        seen before. Only with `after`, rows are skipped: those up to this id, and postponed rows.
        """
        ...

    async def waiting(self, lease: Lease) -> Sequence[tuple[int, str, datetime]]:
        """Return id, key and time of each postponed or deferred row in these partitions."""
        ...

    async def remove(self, ids: Collection[int]) -> None:
        """Delete rows; those that do not exist are ignored."""
        ...

    async def postpone(self, rows: Sequence[Postponed]) -> Sequence[datetime]:
        """Store each row's attempts and error, and return when it is due again.

        It is called again with the same rows if its answer was lost.
        """
        ...

    async def defer(self, ids: Collection[int], until: datetime) -> None:
        """Let rows wait for another one, until the time that `postpone` returned for it."""
        ...

    async def park(self, rows: Sequence[Parked]) -> None:
        """Move rows to the table of parked rows."""
        ...

    # --- watching -----------------------------------------------------------------------------

    async def backlog(self) -> Backlog:
        """Count the rows of all partitions."""
        ...

    async def oldest_age(self) -> float:
        """Return how many seconds the oldest due row of all partitions has waited."""
        ...

    async def newest(self) -> int:
        """Return the highest id in the table, or 0."""
        ...

    async def has_due(self, up_to: int) -> bool:
        """Return whether a row up to this id, of any partition, is due."""
        ...

    def listen(self, wake: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        """Call `wake`, from any thread, when rows may have been committed, until the exit.

        It is a hint: it may be early, repeated or missing, and the relay polls in any case.
        """
        ...

    # --- parked rows --------------------------------------------------------------------------

    async def parked(self, *, limit: int, after: int | None) -> Sequence[ParkedRow]:
        """Return up to `limit` parked rows with ids above `after`, in the order of their ids."""
        ...

    async def redrive(self, ids: Sequence[int]) -> Sequence[int]:
        """Put parked rows back under new ids, with 0 attempts; return the ids that existed."""
        ...

    async def discard(self, ids: Sequence[int]) -> Sequence[int]:
        """Delete parked rows; return the ids that existed."""
        ...

    async def purge(self, older_than: timedelta, *, limit: int) -> int:
        """Delete up to `limit` rows that were parked longer ago; return how many there were."""
        ...


@runtime_checkable
class WatchedOutboxStore(Protocol):
    """Optional queries of a store for operators. They take no lock and change nothing."""

    async def scheduled(self, *, limit: int, after: int | None) -> Sequence[ScheduledRow]:
        """Return up to `limit` rows above the id `after` that are not due yet, by their ids."""
        ...

    async def leases(self) -> Sequence[Lease]:
        """Return the leases of all relays, including expired ones."""
        ...


@runtime_checkable
class SearchedOutboxStore(Protocol):
    """Optional queries of a store for the story of a correlation id. They take no lock."""

    async def waiting_of(self, correlation_id: str, *, limit: int) -> Sequence[WaitingRow]:
        """Return up to `limit` waiting rows with this correlation id, by their ids."""
        ...
