"""What the outbox is to those who use it, and what a database must be able to do for it.

A row is in one of these states. It is deleted, not marked, so the table holds the backlog alone.

    (no row) --put, and the user's commit--> due --the bus took it--> (no row)
                                             ^ |
                            `available_at`   | | the bus refused it: attempts + 1, error kept
                                             | v
                                           postponed
                                               | refused for the last time, or unreadable
                                               v
           due <--redrive, attempts anew--  parked  --discard--> (no row)

`put` with `available_at` makes a postponed row. A broker that is down changes no row. Parked rows
are in a table of their own, so they cost the others nothing.
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

__all__ = [
    "UNREADABLE",
    "Backlog",
    "Outbox",
    "OutboxRow",
    "OutboxStore",
    "Parked",
    "ParkedRow",
    "Postponed",
    "ScheduledRow",
    "WatchedOutboxStore",
]

UNREADABLE = "unreadable"
"""The reason of a row that is not what was put. The others are those of dead letters."""


class Outbox(Protocol):
    """Where handlers put events that are to be sent if, and only if, their transaction commits."""

    async def put(
        self,
        topic: Topic,
        event: IntegrationEvent,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        available_at: datetime | None = None,
    ) -> str:
        """Store the event in the transaction that this outbox belongs to, and return its id.

        The id is made here and kept to the end; within a handler it inherits the correlation of
        the delivery that is being handled. `key` groups events whose order matters. With
        `available_at`, which needs a time zone, it is not sent before.

        Raises:
            EventEncodeError: the event has no JSON form.
            MessageTooLargeError: its body is over the outbox's limit.
        """
        ...


class OutboxRow(Struct, frozen=True):
    """A message that waits. `attempts` counts how often the bus has refused it.

    `was_postponed` tells whether it had a time before which it was not to be sent. `fault` says why
    the message is not what was put, where a store cannot read it: such a row is parked unsent.
    """

    id: int
    message: Message
    attempts: int = 0
    was_postponed: bool = False
    fault: OutboxError | None = None


class Postponed(Struct, frozen=True):
    """What is written to a row that the bus refused: why, and for how many seconds it waits."""

    id: int
    error: str
    delay: float


class Parked(Struct, frozen=True):
    """What is written beside a row that will not be tried again: `attempts` were used up."""

    id: int
    reason: str
    error: str
    attempts: int


class ParkedRow(Struct, frozen=True):
    """A row that could not be sent, kept with all that was known. Times have a zone."""

    id: int
    message: Message
    reason: str
    error: str
    attempts: int
    created_at: datetime
    parked_at: datetime


class ScheduledRow(Struct, frozen=True, kw_only=True):
    """A row that waits for its time, without its body.

    `error` says why, if the bus refused it or it waits for an earlier event of its key; without one
    it was put with `available_at`.
    """

    id: int
    event_id: str
    topic: str
    type: str
    key: str | None
    available_at: datetime
    attempts: int
    error: str | None


class Backlog(Struct, frozen=True):
    """What is in an outbox: rows, and how many seconds the oldest one that is due has waited."""

    pending: int
    parked: int
    oldest_age: float


class OutboxStore(Protocol):
    """The rows, as relays see them. Used from one event loop.

    Each verb is one short transaction of its own, and none is open between two of them. They raise
    whatever the database's library raises; the relay tries again.
    """

    async def check(self) -> None:
        """Raise `OutboxTableError` unless the tables are there and have every column."""
        ...

    # --- leases -------------------------------------------------------------------------------

    async def renew(self, decide: Callable[[Sequence[Lease]], Renewal]) -> Renewal:
        """Hand all leases to `decide` and write what it decides, alone among all relays.

        `remaining` is counted by the database's clock, read after the lock was taken.
        """
        ...

    async def leave(self, lease: Lease) -> None:
        """Delete this lease, if it is still there."""
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
        """Return rows of the lease's partitions that are due, in the order of their ids.

        There are fewer than `limit` if these are all, or if their bodies have `max_bytes` already:
        the row that brings them to so many is the last, of those that were postponed and of the
        rest alike. No more bodies than these are read from the database. There are none if the
        lease is not in the table any more. A row that cannot be read is no error, as it must not
        stop the others: it has a `fault`. Committed rows appear whatever their id is: one that is
        lower than those seen before too. Only with `after` are rows passed over: those up to this
        id, and those that were postponed.
        """
        ...

    async def waiting(self, lease: Lease) -> Sequence[tuple[int, str, datetime]]:
        """Return id, key and time of each postponed or deferred row in these partitions."""
        ...

    async def remove(self, ids: Collection[int]) -> None:
        """Delete rows. Those that are gone already are no error."""
        ...

    async def postpone(self, rows: Sequence[Postponed]) -> Sequence[datetime]:
        """Count an attempt for each row, keep its error, and return when it is due again."""
        ...

    async def defer(self, ids: Collection[int], until: datetime) -> None:
        """Have rows wait for another one, until a time that `postpone` returned for that."""
        ...

    async def park(self, rows: Sequence[Parked]) -> None:
        """Move rows to where they are not tried again."""
        ...

    # --- watching -----------------------------------------------------------------------------

    async def backlog(self) -> Backlog:
        """Count the rows of all partitions."""
        ...

    async def oldest_age(self) -> float:
        """Return how many seconds the oldest row that is due, of whatever partition, has waited."""
        ...

    async def newest(self) -> int:
        """Return the highest id in the table, or 0."""
        ...

    async def has_due(self, up_to: int) -> bool:
        """Tell whether a row up to this id, of whatever partition, is due."""
        ...

    def listen(self, wake: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        """Call `wake`, from any thread, when rows may have been committed, until the exit.

        It is a hint: it may come too early, too often or not at all, and the relay polls anyway.
        """
        ...

    # --- parked rows --------------------------------------------------------------------------

    async def parked(self, *, limit: int, after: int | None) -> Sequence[ParkedRow]:
        """Return up to `limit` parked rows with ids above `after`, in the order of their ids."""
        ...

    async def redrive(self, ids: Sequence[int]) -> Sequence[int]:
        """Put parked rows back, attempts anew, under new ids; return the ids that were there."""
        ...

    async def discard(self, ids: Sequence[int]) -> Sequence[int]:
        """Delete parked rows for good; return the ids that were there."""
        ...

    async def purge(self, older_than: timedelta, *, limit: int) -> int:
        """Delete up to `limit` rows that were parked longer ago; return how many there were."""
        ...


@runtime_checkable
class WatchedOutboxStore(Protocol):
    """What a store may offer operators besides. It takes no lock, and changes nothing."""

    async def scheduled(self, *, limit: int, after: int | None) -> Sequence[ScheduledRow]:
        """Return up to `limit` rows above the id `after` whose time has not come, by their ids."""
        ...

    async def leases(self) -> Sequence[Lease]:
        """Return the leases of all relays, those that have run out too."""
        ...
