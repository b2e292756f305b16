"""The journal: what happened to each event, kept for a while, for the story of an event.

A journal is an observer of the process, so it costs nothing until you use one. It stores ids,
names, times, and errors without the personal data of their events, but no bodies.
"""

from __future__ import annotations

import os
import socket
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal, TypeAlias

from msgspec import Struct

from events.errors import BusError
from events.integration.cloudevents import attribute
from events.integration.message import Delivery, Message, Reject, Release, Retry, Settlement
from events.integration.observation import (
    ObserverBeside,
    TraceMode,
)

_LONGEST = 2_000  # characters of an error

What: TypeAlias = Literal[
    "created",
    "sent",
    "not sent",
    "postponed",
    "parked",
    "handled",
    "duplicate",
    "failed",
    "retried",
    "released",
    "died",
]
"""What happened to an event. `created`: it was put into an outbox; the transaction may fail."""


class JournalEntry(Struct, frozen=True, kw_only=True):
    """One thing that happened to one event, with the time of the process where it happened.

    The time of `sent` is when sending began: an event may be handled before its sender gets the
    confirmation. `consumer` and `attempt` are None for entries about sending. `detail` is an
    error, or the delay of a retry.
    """

    at: datetime
    what: What
    correlation_id: str
    causation_id: str | None
    event_id: str
    type: str
    topic: str
    consumer: str | None = None
    attempt: int | None = None
    detail: str | None = None
    process: str = ""


class JournalSource:
    """A source of the story of a correlation id."""

    @abstractmethod
    async def entries(self, correlation_id: str, *, limit: int = 1_000) -> Sequence[JournalEntry]:
        """Return the first `limit` entries of this correlation id, in the order of their times."""
        ...


class Journal(ObserverBeside, JournalSource):
    """Base of journals: make entries of what happens within `async with journal:`.

    A journal is an additional observer: it keeps the one that was set before.
    """

    def __init__(self) -> None:
        super().__init__()
        self._process = f"{socket.gethostname()}:{os.getpid()}"

    @abstractmethod
    def write(self, entry: JournalEntry) -> None:
        """Store an entry. Called in the event loop during events' processing: do not block."""
        ...

    # --- sending ------------------------------------------------------------------------------

    def created(self, message: Message) -> Message:
        """Write `created`."""
        self._note(message, "created")
        return message

    @contextmanager
    def sending(self, message: Message, system: str) -> Generator[Message]:
        """Write `sent` or `not sent`."""
        del system
        begun = datetime.now(UTC)
        try:
            yield message
        except BaseException as error:
            self._note(message, "not sent", at=begun, detail=_text(error))
            raise
        self._note(message, "sent", at=begun)

    @contextmanager
    def sending_batch(
        self, messages: Sequence[Message], system: str
    ) -> Generator[list[BusError | Exception | None]]:
        """Write `sent` or `not sent` for each; what ends the block early ends the rest."""
        del system
        begun = datetime.now(UTC)
        outcomes: list[BusError | Exception | None] = []
        known: list[BaseException | None] = []
        try:
            yield outcomes
            known += outcomes
        except BaseException as error:
            known += [*outcomes, *[error] * (len(messages) - len(outcomes))]
            raise
        finally:
            for message, outcome in zip(messages, known, strict=False):
                if outcome is None:
                    self._note(message, "sent", at=begun)
                else:
                    self._note(message, "not sent", at=begun, detail=_text(outcome))

    def postponed(self, message: Message, error: str, seconds: float) -> None:
        """Write `postponed`."""
        self._note(message, "postponed", detail=f"again in {seconds:.3g} s: {error}")

    def parked(self, message: Message, reason: str) -> None:
        """Write `parked`."""
        self._note(message, "parked", detail=reason)

    # --- consuming ----------------------------------------------------------------------------

    @contextmanager
    def processing(
        self, delivery: Delivery, system: str, trace: TraceMode, mask: Callable[[str], str]
    ) -> Generator[None]:
        """Write `handled` or `failed`."""
        del system, trace
        try:
            yield
        except Exception as error:
            self._note(delivery, "failed", detail=mask(_text(error)))
            raise
        self._note(delivery, "handled")

    def duplicate(self, delivery: Delivery) -> None:
        """Write `duplicate`. `handled` follows, because the consumer counts it as handled."""
        self._note(delivery, "duplicate")

    def retrying(self, delivery: Delivery, system: str, seconds: float) -> None:
        """Write `retried`."""
        del system
        self._note(delivery, "retried", detail=f"again in {seconds:.3g} s")

    def settled(self, delivery: Delivery, system: str, settlement: Settlement) -> None:
        """Write any settlement but success, which is written when the handler returns."""
        del system
        if isinstance(settlement, Retry):
            detail = f"again in {settlement.after:.3g} s"
            self._note(delivery, "retried", attempt=settlement.attempt, detail=detail)
        elif isinstance(settlement, Release):
            self._note(delivery, "released")
        elif isinstance(settlement, Reject):
            detail = f"{settlement.reason}: {settlement.error}"
            self._note(delivery, "died", attempt=settlement.attempts, detail=detail)

    def _note(
        self,
        of: Message | Delivery,
        what: What,
        *,
        at: datetime | None = None,
        attempt: int | None = None,
        detail: str | None = None,
    ) -> None:
        self.write(
            JournalEntry(
                at=at or datetime.now(UTC),
                what=what,
                correlation_id=of.correlation_id,
                causation_id=attribute(of.headers, "causationid") or None,
                event_id=of.id,
                type=of.type if isinstance(of, Message) else attribute(of.headers, "type") or "",
                topic=of.topic,
                consumer=of.consumer if isinstance(of, Delivery) else None,
                attempt=attempt or (of.attempt if isinstance(of, Delivery) else None),
                detail=None if detail is None else detail[:_LONGEST],
                process=self._process,
            )
        )


class MemoryJournal(Journal):
    """A journal in this process's memory, with the newest `max_rows` entries."""

    def __init__(self, *, max_rows: int = 10_000) -> None:
        super().__init__()
        self._entries: deque[JournalEntry] = deque(maxlen=max_rows)

    def write(self, entry: JournalEntry) -> None:
        """See `Journal`."""
        self._entries.append(entry)

    async def entries(self, correlation_id: str, *, limit: int = 1_000) -> Sequence[JournalEntry]:
        """See `JournalSource`."""
        found = [each for each in self._entries if each.correlation_id == correlation_id]
        return sorted(found, key=lambda entry: entry.at)[:limit]


def _text(error: BaseException) -> str:
    return f"{type(error).__qualname__}: {error}"
