"""What the outbox is to those who use it, and what a database must be able to do for it.

A row is in one of these states. It is deleted, not marked, so the table holds the backlog alone.

    (no row) --put, and the user's commit--> due --the bus took it--> (no row)
                                              ^ |
                             `available_at`   | | the bus refused it, or it is corrupt: attempts + 1
                                              | v
                                            postponed

`put` with `available_at` makes a postponed row. A broker that is down changes no row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from events.errors import OutboxError
from events.integration.event import IntegrationEvent
from events.integration.message import Message
from events.integration.topology import Topic

__all__ = ["Outbox", "OutboxRow", "OutboxStore", "Postponed"]


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

    `fault` says why the message is not what was put, where a store cannot read it: such a row is
    postponed unsent.
    """

    id: int
    message: Message
    attempts: int = 0
    fault: OutboxError | None = None


class Postponed(Struct, frozen=True):
    """What is written to a row that the bus refused: why, and for how many seconds it waits."""

    id: int
    error: str
    delay: float


class OutboxStore(Protocol):
    """The rows, as the relay sees them. Used from one event loop.

    Each verb is one short transaction of its own, and none is open between two of them. They raise
    whatever the database's library raises; the relay tries again.
    """

    async def check(self) -> None:
        """Raise `OutboxTableError` unless the table is there and has every column."""
        ...

    async def due(self, limit: int) -> Sequence[OutboxRow]:
        """Return rows that are due, in the order of their ids; fewer than `limit` if these are all.

        A row that cannot be read is no error, as it must not stop the others: it has a `fault`.
        Committed rows appear whatever their id is: one that is lower than those seen before too.
        """
        ...

    async def remove(self, ids: Collection[int]) -> None:
        """Delete rows. Those that are gone already are no error."""
        ...

    async def postpone(self, rows: Sequence[Postponed]) -> None:
        """Count an attempt for each row, keep its error, and make it due after its delay."""
        ...

    def listen(self, wake: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        """Call `wake`, from any thread, when rows may have been committed, until the exit.

        It is a hint: it may come too early, too often or not at all, and the relay polls anyway.
        """
        ...
