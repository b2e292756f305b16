"""The story of a correlation id: what was sent, handled, retried and dead-lettered, in order.

It is assembled from these sources, each of which has a part:

| source | contains |
|---|---|
| the journal | everything, if the processes keep one |
| dead letters | which events died, when and why |
| the outbox | events that are not sent yet: due, scheduled, parked |
| inboxes | when each consumer handled an event of the other sources |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from msgspec import Struct

from events.integration.cloudevents import attribute
from events.integration.journal import JournalEntry, JournalSource
from events.integration.message import Message
from events.integration.outbox import OutboxRelay
from events.operations.dead_letters import DeadLetters
from events.operations.outbox import OutboxRows

Source: TypeAlias = Literal["journal", "dead letters", "outbox", "inbox"]

_MOST = 1_000  # entries of one source
_CLOCKS = timedelta(seconds=10)  # how far those of two machines may be apart


class StoryEntry(Struct, frozen=True, kw_only=True):
    """One thing that happened, and its source.

    `what` is as in a `JournalEntry`, or `waiting` or `scheduled` in an outbox. `at` is its time;
    for `scheduled`, when it was put.
    """

    at: datetime
    what: str
    event_id: str
    type: str
    topic: str
    source: Source
    consumer: str | None = None
    attempt: int | None = None
    causation_id: str | None = None
    detail: str | None = None


class Story(Struct, frozen=True, kw_only=True):
    """The entries of a correlation id in order of time, and the sources that were `searched`."""

    correlation_id: str
    entries: tuple[StoryEntry, ...]
    searched: tuple[Source, ...]


@runtime_checkable
class HandledSource(Protocol):
    """An inbox that reports what was handled, such as `SQLAlchemyInbox`."""

    async def handled_at(
        self, consumers: Sequence[str], messages: Iterable[Message]
    ) -> Mapping[tuple[str, str], datetime]:
        """Return when these consumers handled these events, by consumer and event id."""
        ...


async def story(
    correlation_id: str,
    *,
    letters: DeadLetters | None = None,
    relays: Sequence[OutboxRelay] = (),
    inboxes: Sequence[HandledSource] = (),
    journals: Sequence[JournalSource] = (),
) -> Story:
    """Return the story of a correlation id, or of the first event of one.

    It scans all dead letters and all rows of an outbox. If the journal and another source have the
    same entry, only that of the journal is included. An inbox is queried for the consumers of
    `letters`. Errors of the sources, such as `BusUnavailableError`, are raised unchanged.
    """
    found: list[StoryEntry] = []
    messages: dict[str, Message] = {}
    searched: list[Source] = []
    if letters is not None:
        searched.append("dead letters")
        found += await _dead(correlation_id, letters, messages)
    if relays:
        searched.append("outbox")
        for relay in relays:
            found += await _outbox(correlation_id, relay, messages)
    if inboxes and letters is not None:
        searched.append("inbox")
        for inbox in inboxes:
            found += await _handled(inbox, letters.consumers, messages)
    if journals:
        searched.append("journal")
        entries = [
            _of_journal(entry)
            for journal in journals
            for entry in await journal.entries(correlation_id, limit=_MOST)
        ]
        found = [each for each in found if not any(_same(each, entry) for entry in entries)]
        found += entries
    found.sort(key=lambda entry: entry.at)
    return Story(correlation_id=correlation_id, entries=tuple(found), searched=tuple(searched))


async def _dead(
    correlation_id: str, letters: DeadLetters, messages: dict[str, Message]
) -> list[StoryEntry]:
    found: list[StoryEntry] = []
    async with aclosing(letters.search()) as all_:
        async for letter in all_:
            message = letter.message
            if message.correlation_id != correlation_id:
                continue
            messages[message.id] = message
            detail = f"{letter.reason}: {letter.error}"
            found += _created(message)
            found.append(
                _of_message(
                    message,
                    letter.died_at,
                    "died",
                    "dead letters",
                    consumer=letter.consumer,
                    attempt=letter.attempts,
                    detail=detail,
                )
            )
    return _once(found)


async def _outbox(
    correlation_id: str, relay: OutboxRelay, messages: dict[str, Message]
) -> list[StoryEntry]:
    found: list[StoryEntry] = []
    now = datetime.now(UTC)
    for row in await relay.waiting_of(correlation_id, limit=_MOST):
        messages[row.message.id] = row.message
        later = row.available_at > now
        when = f"not before {row.available_at.isoformat(timespec='seconds')}" if later else None
        said = [text for text in (when, row.error) if text]
        found.append(
            _of_message(
                row.message,
                row.created_at,
                "scheduled" if later else "waiting",
                "outbox",
                attempt=row.attempts,
                detail=": ".join(said) or None,
            )
        )
    async with aclosing(OutboxRows(relay, actor="").parked()) as rows:
        async for parked in rows:
            message = parked.message
            if message.correlation_id == correlation_id:
                messages[message.id] = message
                found.append(_of_message(message, parked.created_at, "created", "outbox"))
                found.append(
                    _of_message(
                        message,
                        parked.parked_at,
                        "parked",
                        "outbox",
                        attempt=parked.attempts,
                        detail=f"{parked.reason}: {parked.error}",
                    )
                )
    return found


async def _handled(
    inbox: HandledSource, consumers: Sequence[str], messages: Mapping[str, Message]
) -> list[StoryEntry]:
    if not messages or not consumers:
        return []
    handled = await inbox.handled_at(consumers, messages.values())
    return [
        _of_message(messages[event_id], at, "handled", "inbox", consumer=consumer)
        for (consumer, event_id), at in handled.items()
    ]


def _created(message: Message) -> Iterator[StoryEntry]:
    """Return the creation time in the event's own attributes."""
    said = attribute(message.headers, "time")
    try:
        at = datetime.fromisoformat(said) if said else None
    except ValueError:
        at = None
    if at is not None and at.tzinfo is not None:
        yield _of_message(message, at, "created", "dead letters")


def _once(entries: Iterable[StoryEntry]) -> list[StoryEntry]:
    """Remove entries that the dead letters of two consumers have in common."""
    return list(dict.fromkeys(entries))


def _of_message(
    message: Message,
    at: datetime,
    what: str,
    source: Source,
    *,
    consumer: str | None = None,
    attempt: int | None = None,
    detail: str | None = None,
) -> StoryEntry:
    return StoryEntry(
        at=at,
        what=what,
        event_id=message.id,
        type=message.type,
        topic=message.topic,
        source=source,
        consumer=consumer,
        attempt=attempt,
        causation_id=attribute(message.headers, "causationid") or None,
        detail=detail,
    )


def _of_journal(entry: JournalEntry) -> StoryEntry:
    return StoryEntry(
        at=entry.at,
        what=entry.what,
        event_id=entry.event_id,
        type=entry.type,
        topic=entry.topic,
        source="journal",
        consumer=entry.consumer,
        attempt=entry.attempt,
        causation_id=entry.causation_id,
        detail=entry.detail,
    )


def _same(one: StoryEntry, other: StoryEntry) -> bool:
    """Return whether two sources report the same entry, by clocks that may differ a little."""
    return (
        (one.what, one.event_id, one.consumer) == (other.what, other.event_id, other.consumer)
    ) and abs(one.at - other.at) < _CLOCKS
