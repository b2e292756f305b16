"""The journal in a table of each database, and the story that is made with outbox and inbox."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import MetaData, func, select
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from events.errors import InboxError, OutboxTableError
from events.integration import (
    EventHandlerConsumer,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    OutboxRelay,
    RetryPolicy,
    Topic,
    correlate,
)
from events.integration.journal import JournalEntry
from events.integration.observation import current_observer
from events.memory import MemoryBus
from events.operations import DeadLetters, story
from events.sqlalchemy import (
    SQLAlchemyInbox,
    SQLAlchemyJournal,
    SQLAlchemyOutbox,
    SQLAlchemyOutboxStore,
    current_session,
    inbox_table,
    journal_table,
    outbox_table,
)
from events.testing import until_quiet
from tests.databases.database import new_database

NOTES = Topic("journal.notes")
METADATA = MetaData()
TABLE = journal_table(METADATA)
outbox_table(METADATA)
inbox_table(METADATA)
DRIVERS = {
    "sqlite": (None, "sqlite+aiosqlite"),
    "asyncpg": ("postgresql", "postgresql+asyncpg"),
    "psycopg": ("postgresql", "postgresql+psycopg"),
    "asyncmy": ("mariadb", "mariadb+asyncmy"),
}


@dataclass(frozen=True)
class Kept(IntegrationEvent):
    type = "journal.kept"
    version = 1
    number: int


@pytest.fixture(params=DRIVERS)
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    kind, driver = DRIVERS[request.param]
    with ExitStack() as stack:
        url: Any = f"{driver}:///{tmp_path}/journal.db"
        if kind is not None:
            url = stack.enter_context(new_database(kind)).url(driver)
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)
        yield engine
        await engine.dispose()


def entry(number: int = 0, **given: Any) -> JournalEntry:
    made = JournalEntry(
        at=datetime.now(UTC),
        what="sent",
        correlation_id="c",
        causation_id=None,
        event_id=f"e{number}",
        type="t",
        topic="notes",
    )
    return replace(made, **given)


async def count(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return (await connection.execute(select(func.count()).select_from(TABLE))).scalar_one()


async def test_entries_are_read_as_they_were_written(engine: AsyncEngine) -> None:
    given = [entry(2, consumer="c", attempt=3, detail="späť"), entry(1, correlation_id="C")]
    before = current_observer()
    async with SQLAlchemyJournal(engine) as journal:
        for each in given:
            journal.write(each)
        await journal.flush()
        assert await journal.entries("c") == given[:1]
        assert await journal.entries("C") == given[1:]
        assert current_observer() is journal
        journal.write(entry(3))
    assert current_observer() is before
    assert [each.event_id for each in await journal.entries("c")] == ["e2", "e3"]


async def test_two_that_write_at_once_write_each_entry_once(engine: AsyncEngine) -> None:
    journal = SQLAlchemyJournal(engine)
    given = [entry(number) for number in range(3)]
    for each in given:
        journal.write(each)
    await asyncio.gather(journal.flush(), journal.flush())
    assert await journal.entries("c") == given


async def test_text_that_a_database_refuses_stops_nothing(engine: AsyncEngine) -> None:
    hostile = entry(1, detail="a\0b\ud800" + "x" * 5_000, type="\0" * 300, correlation_id="c" * 999)
    async with SQLAlchemyJournal(engine) as journal:
        journal.write(hostile)
        journal.write(entry(2))
    (found,) = await journal.entries("c" * 999)
    assert found.detail is not None
    assert found.detail.startswith("a\ufffdb?xxx")
    assert len(found.type) == 255
    assert len(await journal.entries("c")) == 1


async def test_it_is_bounded_in_rows_and_in_age(engine: AsyncEngine) -> None:
    journal = SQLAlchemyJournal(engine, max_rows=1_500, max_age=timedelta(hours=1))
    old = datetime.now(UTC) - timedelta(hours=2)
    for number in range(4_000):
        journal.write(entry(number))
    await journal.flush()
    assert await journal.prune() == 2_500
    assert await count(engine) == 1_500
    for number in range(10):
        journal.write(entry(number, at=old, correlation_id="old"))
    await journal.flush()
    await journal.prune()  # the newest, although old, wait for those before them
    assert len(await journal.entries("c", limit=2_000)) == 1_490
    aged = SQLAlchemyJournal(engine, max_age=timedelta(microseconds=1))
    assert await aged.prune() == 1_500
    assert await count(engine) == 0


async def test_a_full_buffer_drops_the_oldest_and_counts(engine: AsyncEngine) -> None:
    journal = SQLAlchemyJournal(engine, buffer=3)
    for number in range(5):
        journal.write(entry(number))
    await journal.flush()
    assert [each.event_id for each in await journal.entries("c")] == ["e2", "e3", "e4"]
    assert journal.lost == 2


async def test_a_table_that_is_missing_is_named(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/none.db")
    with pytest.raises(OutboxTableError, match="journal_table"):
        async with SQLAlchemyJournal(engine):
            pass
    await engine.dispose()
    for wrong in ({"max_rows": 0}, {"max_age": timedelta(0)}, {"buffer": 0}, {"flush_every": 0}):
        with pytest.raises(ValueError, match="max_rows and buffer"):
            SQLAlchemyJournal(engine, **wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="needs an AsyncEngine"):
        SQLAlchemyJournal("sqlite://")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_the_story_goes_from_the_outbox_to_the_inbox_and_the_dead(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """One is handled and causes another, which dies; a third waits, a fourth is parked."""
    maker = async_sessionmaker(engine)

    async def handle(event: Kept) -> None:
        current_session()
        if event.number == 1:
            await SQLAlchemyOutbox(current_session()).put(NOTES, Kept(2))
        if event.number == 2:
            raise ValueError("no 2")

    consumer = EventHandlerConsumer("keeper", {Kept: handle})
    once = RetryPolicy(attempts=1)
    registration = IntegrationEventBusRegistration(consumer, NOTES, [Kept], retry=once)
    inbox = SQLAlchemyInbox(maker)
    bus = MemoryBus([registration], middlewares=[inbox])
    relay = OutboxRelay(SQLAlchemyOutboxStore(engine), bus, retry=once)
    async with SQLAlchemyJournal(engine) as journal, bus, relay:
        async with AsyncSession(engine) as session, session.begin():
            first = await SQLAlchemyOutbox(session).put(NOTES, Kept(1))
        await relay.drain()
        await until_quiet(bus)
        await relay.drain()
        await until_quiet(bus)
        await relay.shutdown()
        later = datetime.now(UTC) + timedelta(hours=1)
        async with AsyncSession(engine) as session, session.begin():
            put = SQLAlchemyOutbox(session).put
            with correlate(first):
                await put(NOTES, Kept(3))
                await put(NOTES, Kept(4), available_at=later)
            await put(NOTES, Kept(5))
        await journal.flush()
        letters = DeadLetters(bus, actor="anna")
        without = await story(first, letters=letters, relays=[relay], inboxes=[inbox])
        whole = await story(
            first, letters=letters, relays=[relay], inboxes=[inbox], journals=[journal]
        )
    assert [(e.what, e.source) for e in without.entries] == [
        ("created", "dead letters"),
        ("died", "dead letters"),
        ("waiting", "outbox"),
        ("scheduled", "outbox"),
    ]
    assert without.searched == ("dead letters", "outbox", "inbox")
    assert [e.what for e in whole.entries if e.event_id == first] == ["created", "sent", "handled"]
    (second,) = {e.event_id for e in whole.entries if e.what == "died"}
    found = [e for e in whole.entries if e.event_id == second]
    assert [e.what for e in found] == ["created", "sent", "failed", "died"]
    assert {e.causation_id for e in found} == {first}
    assert (found[-1].detail or "").startswith("retries-exhausted: ValueError: no 2\nat ")
    assert {e.source for e in found} == {"journal"}
    assert [e.at for e in whole.entries] == sorted(e.at for e in whole.entries)


async def test_an_inbox_tells_when_an_event_was_handled(engine: AsyncEngine) -> None:
    """Of two consumers of one event one has handled it, the other's is dead."""

    async def fine(event: Kept) -> None:
        current_session()

    async def bad(event: Kept) -> None:
        raise ValueError("bad")

    once = RetryPolicy(attempts=1)
    inbox = SQLAlchemyInbox(async_sessionmaker(engine))
    registrations = [
        IntegrationEventBusRegistration(
            EventHandlerConsumer(name, {Kept: handler}), NOTES, [Kept], retry=once
        )
        for name, handler in {"fine": fine, "bad": bad}.items()
    ]
    async with MemoryBus(registrations, middlewares=[inbox]) as bus:
        await bus.send(NOTES, Kept(1))
        await until_quiet(bus)
        letters = DeadLetters(bus, actor="anna")
        (letter,) = [each async for each in letters.search()]
        found = await story(letter.message.correlation_id, letters=letters, inboxes=[inbox])
    whats = {(e.what, e.consumer) for e in found.entries}
    assert whats == {("created", None), ("handled", "fine"), ("died", "bad")}

    async def borrowed() -> AsyncSession:
        raise AssertionError

    with pytest.raises(InboxError, match="has no sessions to read with"):
        await SQLAlchemyInbox(borrowed).handled_at(["fine"], [letter.message])


async def test_a_parked_row_is_part_of_the_story(engine: AsyncEngine) -> None:
    class Full(MemoryBus):
        async def forward(self, messages: Any) -> Any:
            return [ValueError("full") for _ in messages]

    async with Full() as bus:
        relay = OutboxRelay(SQLAlchemyOutboxStore(engine), bus, retry=RetryPolicy(attempts=1))
        async with relay, asyncio.timeout(120):
            async with AsyncSession(engine) as session, session.begin():
                first = await SQLAlchemyOutbox(session).put(NOTES, Kept(1))
            await relay.drain()
        found = await story(first, relays=[relay])
    assert [e.what for e in found.entries] == ["created", "parked"]
    assert "full" in (found.entries[1].detail or "")
