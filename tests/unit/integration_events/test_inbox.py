"""The inbox on SQLite: its life with a bus, what it refuses, what it forgets."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Engine,
    MetaData,
    String,
    Table,
    create_engine,
    insert,
    make_url,
    text,
)
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.schema import CreateTable

from events.errors import InboxError, InboxTableError, InvalidTopologyError
from events.integration import (
    Delivery,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    RetryPolicy,
    Topic,
)
from events.integration.implementation.memory import InMemoryIntegrationEventBus
from events.integration.implementation.sqlalchemy import (
    SQLAlchemyInbox,
    current_session,
    inbox_table,
)
from events.integration.implementation.sqlalchemy.inbox_table import message_key
from events.integration.limits import LONGEST_NAME
from events.integration.topology.topic import _LONGEST as LONGEST_CONSUMER
from events.testing import eventually, until_quiet
from events.testing.contracts import Numbered, Probe
from tests.contracts.sqlalchemy_inbox import SQLAlchemyInboxDatabase, created

TOPIC = Topic("inbox")
ID = "0192e4a0-0000-7000-8000-000000000001"
NO_RETRY = RetryPolicy(attempts=1)
THRICE = RetryPolicy(attempts=3, delay=0, jitter=0)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncGenerator[SQLAlchemyInboxDatabase]:
    async with created(make_url(f"sqlite+aiosqlite:///{tmp_path}/inbox.db")) as database:
        yield database


def on(
    probe: Probe, *, retry: RetryPolicy = NO_RETRY, concurrency: int = 1
) -> IntegrationEventBusRegistration:
    return IntegrationEventBusRegistration(
        probe, TOPIC, [Numbered], retry=retry, concurrency=concurrency
    )


def bus_with(
    inbox: SQLAlchemyInbox, *registrations: IntegrationEventBusRegistration
) -> InMemoryIntegrationEventBus:
    return InMemoryIntegrationEventBus(registrations, middlewares=[inbox])


def writing(database: SQLAlchemyInboxDatabase) -> Probe:
    async def write(event: IntegrationEvent) -> None:
        assert isinstance(event, Numbered)
        await database.write(event.number)

    return Probe("writer", write)


# --- with a bus -------------------------------------------------------------------------------


async def test_a_duplicate_is_acknowledged_counted_and_reported(
    database: SQLAlchemyInboxDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "events.integration")
    probe = writing(database)
    async with bus_with(database.inbox, on(probe)) as bus:
        for _ in range(3):
            await bus.send(TOPIC, Numbered(1), id=ID)
        await until_quiet(bus)
        assert await bus.dead_letters("writer") == []
    assert probe.numbers == [1]
    assert (database.inbox.handled, database.inbox.duplicates) == (1, 2)
    assert caplog.text.count(f"has handled {ID} from topic 'inbox' before: acknowledged") == 2
    assert await database.effects() == [1]


async def test_attempts_that_fail_leave_no_row_and_the_last_one_does(
    database: SQLAlchemyInboxDatabase,
) -> None:
    attempts: list[int] = []

    async def fail_twice(_: IntegrationEvent) -> None:
        attempts.append(await database.rows())
        await database.write(len(attempts))
        if len(attempts) < 3:
            raise RuntimeError("not yet")

    async with bus_with(database.inbox, on(Probe("writer", fail_twice), retry=THRICE)) as bus:
        await bus.send(TOPIC, Numbered(1))
        await until_quiet(bus)
    assert attempts == [0, 0, 0]
    assert (await database.effects(), await database.rows()) == ([3], 1)


async def test_a_redriven_dead_letter_is_handled(database: SQLAlchemyInboxDatabase) -> None:
    broken = True

    async def handle(_: IntegrationEvent) -> None:
        await database.write(1)
        if broken:
            raise RuntimeError("a bug")

    async with bus_with(database.inbox, on(Probe("writer", handle))) as bus:
        await bus.send(TOPIC, Numbered(1))
        await until_quiet(bus)
        broken = False
        await bus.redrive("writer", await bus.dead_letters("writer"))
        await until_quiet(bus)
    assert await database.effects() == [1]


async def test_a_locked_database_is_waited_for_and_costs_no_attempt(
    database: SQLAlchemyInboxDatabase, tmp_path: Path
) -> None:
    engine = create_async_engine(database.engine.url, connect_args={"timeout": 0.01})
    inbox = SQLAlchemyInbox(async_sessionmaker(engine))
    probe = Probe("writer", lambda _: current_session().execute(text("SELECT 1")))
    other = sqlite3.connect(tmp_path / "inbox.db", isolation_level=None)
    async with bus_with(inbox, on(probe)) as bus:
        other.execute("BEGIN IMMEDIATE")
        await bus.send(TOPIC, Numbered(1))
        with pytest.raises(AssertionError):
            await eventually(lambda: probe.numbers, 0.3)
        other.execute("COMMIT")
        await until_quiet(bus)
        assert await bus.dead_letters("writer") == []
    assert probe.attempts == [1]
    other.close()
    await engine.dispose()


async def test_patience_ends_and_then_it_is_an_attempt(
    database: SQLAlchemyInboxDatabase, tmp_path: Path
) -> None:
    engine = create_async_engine(database.engine.url, connect_args={"timeout": 0.01})
    inbox = SQLAlchemyInbox(async_sessionmaker(engine), timeout=0.1)
    probe = Probe("writer")
    other = sqlite3.connect(tmp_path / "inbox.db", isolation_level=None)
    async with bus_with(inbox, on(probe)) as bus:
        other.execute("BEGIN IMMEDIATE")
        await bus.send(TOPIC, Numbered(1))
        await until_quiet(bus)
        (letter,) = await bus.dead_letters("writer")
        assert "database is locked" in letter.error
        other.execute("COMMIT")
    assert probe.numbers == []
    other.close()
    await engine.dispose()


def purging(inbox: SQLAlchemyInbox) -> bool:
    return inbox._purge._purging is not None


async def test_two_buses_share_an_inbox(database: SQLAlchemyInboxDatabase) -> None:
    inbox, probe = database.inbox, writing(database)
    async with bus_with(inbox, on(probe)) as one:
        async with bus_with(inbox, on(probe)) as two:
            await one.send(TOPIC, Numbered(1), id=ID)
            await until_quiet(one)
        assert purging(inbox)
        await one.send(TOPIC, Numbered(1), id=ID)
        await until_quiet(one)
    assert not purging(inbox)
    assert (probe.numbers, two.health().started) == ([1], False)


async def test_sessions_of_somebody_else_are_committed_and_not_closed(
    database: SQLAlchemyInboxDatabase,
) -> None:
    session = AsyncSession(database.engine)

    async def get() -> AsyncSession:
        return session

    closed: list[bool] = []
    session.sync_session.close = lambda: closed.append(True)  # type: ignore[method-assign]
    before = set(vars(session.sync_session))
    inbox = SQLAlchemyInbox(get)
    async with bus_with(inbox, on(writing(database))) as bus:
        await bus.send(TOPIC, Numbered(1), id=ID)
        await bus.send(TOPIC, Numbered(1), id=ID)
        await until_quiet(bus)
    assert (await database.effects(), inbox.duplicates, closed) == ([1], 1, [])
    assert set(vars(session.sync_session)) - before <= {"dispatch"}, (
        "something of the inbox is left"
    )
    del session.sync_session.close
    await session.close()


async def test_a_session_without_autobegin_works(database: SQLAlchemyInboxDatabase) -> None:
    inbox = SQLAlchemyInbox(async_sessionmaker(database.engine, autobegin=False))
    async with bus_with(inbox, on(writing(database))) as bus:
        await bus.send(TOPIC, Numbered(1))
        await until_quiet(bus)
    assert await database.effects() == [1]


async def test_a_handler_that_begins_a_transaction_is_refused(
    database: SQLAlchemyInboxDatabase,
) -> None:
    async def handle(_: IntegrationEvent) -> None:
        async with current_session().begin():
            raise AssertionError

    async with bus_with(database.inbox, on(Probe("writer", handle))) as bus:
        await bus.send(TOPIC, Numbered(1))
        await until_quiet(bus)
        (letter,) = await bus.dead_letters("writer")
    assert "omit `session.begin()`" in letter.error


async def test_a_handler_that_does_not_use_the_session_is_warned_of_once(
    database: SQLAlchemyInboxDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    async with bus_with(database.inbox, on(Probe("elsewhere"))) as bus:
        await bus.send_many(TOPIC, map(Numbered, range(3)))
        await until_quiet(bus)
    assert caplog.text.count("elsewhere handled an event without current_session()") == 1


# --- bad input --------------------------------------------------------------------------------

ASYNC_ENGINE = create_async_engine("sqlite+aiosqlite://")
ENGINE: Engine = create_engine("sqlite://")


@pytest.mark.parametrize(
    ("make", "cure"),
    [
        (lambda: ASYNC_ENGINE, r"pass async_sessionmaker\(engine\)"),
        (lambda: ENGINE, "async engine"),
        (lambda: Session(ENGINE), "async engine"),
        (lambda: sessionmaker(ENGINE), "async engine"),
        (lambda: async_sessionmaker(ENGINE), "bound to a sync engine"),  # type: ignore[call-overload]
        (lambda: AsyncSession(ASYNC_ENGINE), "each event needs its own session"),
        (lambda: AsyncSession, r"from_scope\(AsyncSession\)"),
        (lambda: async_scoped_session(async_sessionmaker(ASYNC_ENGINE), int), "async_sessionmaker"),
        (lambda: None, "async_sessionmaker"),
        (lambda: "sqlite+aiosqlite:///x.db", "async_sessionmaker"),
    ],
)
def test_what_gives_no_sessions_is_refused(make: Callable[[], Any], cure: str) -> None:
    with pytest.raises(TypeError, match=rf"SQLAlchemyInbox cannot use .*{cure}"):
        SQLAlchemyInbox(make())


@pytest.mark.parametrize("retention", [timedelta(0), timedelta(days=-1), 7, "7 days"])
def test_a_retention_that_is_none_is_refused(retention: Any) -> None:
    with pytest.raises(ValueError, match="retention must be a timedelta above 0, or None"):
        SQLAlchemyInbox(async_sessionmaker(ASYNC_ENGINE), retention=retention)


@pytest.mark.parametrize("timeout", [-1, float("nan"), "10", True, None])
def test_a_patience_that_is_none_is_refused(timeout: Any) -> None:
    with pytest.raises(ValueError, match="timeout must be a number of seconds of 0 or more"):
        SQLAlchemyInbox(async_sessionmaker(ASYNC_ENGINE), timeout=timeout)


@pytest.mark.parametrize("given", [Session(ENGINE), None, "session"])
async def test_a_function_that_returns_something_else_is_reported(given: Any) -> None:
    async def get() -> Any:
        return given

    async with bus_with(SQLAlchemyInbox(get), on(Probe("writer"))) as bus:
        await bus.send(TOPIC, Numbered(1))
        await until_quiet(bus)
        (letter,) = await bus.dead_letters("writer")
    assert "must return an AsyncSession to await" in letter.error


async def test_a_missing_table_is_found_at_startup(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/empty.db")
    bus = bus_with(SQLAlchemyInbox(async_sessionmaker(engine)), on(Probe("writer")))
    with pytest.raises(InboxTableError, match=r"'inbox': it does not exist; add it .*create_all"):
        await bus.startup()
    await engine.dispose()


async def test_a_missing_table_is_an_attempt_where_startup_cannot_look(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/empty.db")
    tries: list[datetime] = []

    async def get() -> AsyncSession:
        tries.append(datetime.now(UTC))
        if len(tries) == 3:  # the migration has come meanwhile
            metadata = MetaData()
            inbox_table(metadata)
            async with engine.begin() as connection:
                await connection.run_sync(metadata.create_all)
        return AsyncSession(engine)

    probe, inbox = Probe("writer"), SQLAlchemyInbox(get)
    with pytest.raises(InboxError, match="has no engine yet"):
        await inbox.purge()
    async with bus_with(inbox, on(probe, retry=THRICE)) as bus:
        await bus.send(TOPIC, Numbered(1))
        await until_quiet(bus)
    assert (probe.numbers, probe.attempts) == ([1], [3])
    assert await inbox.purge() == 0
    await engine.dispose()


@pytest.mark.parametrize(
    ("ddl", "reason"),
    [
        ("(consumer TEXT, message_id TEXT)", "it has no column handled_at"),
        (
            "(consumer TEXT, message_id TEXT, handled_at TEXT)",
            r"its primary key is \(\), not \(consumer, message_id\)",
        ),
        (
            "(consumer TEXT, message_id TEXT PRIMARY KEY, handled_at TEXT)",
            r"its primary key is \(message_id\)",
        ),
        (
            "(consumer VARCHAR(20), message_id VARCHAR(255), handled_at TEXT, "
            "PRIMARY KEY (consumer, message_id))",
            "its column consumer holds 20 characters, not 255",
        ),
    ],
)
async def test_a_table_of_another_layout_is_refused(tmp_path: Path, ddl: str, reason: str) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/other.db")
    async with engine.begin() as connection:
        await connection.execute(text(f"CREATE TABLE inbox {ddl}"))
    bus = bus_with(SQLAlchemyInbox(async_sessionmaker(engine)), on(Probe("writer")))
    with pytest.raises(InboxTableError, match=reason):
        await bus.startup()
    await engine.dispose()


def test_a_table_that_is_no_inbox_is_refused() -> None:
    table = Table("users", MetaData(), Column("email", String))
    with pytest.raises(InboxTableError, match="no column consumer, message_id, handled_at"):
        SQLAlchemyInbox(async_sessionmaker(ASYNC_ENGINE), table=table)


def test_the_table_is_attached_once_and_only_to_a_metadata() -> None:
    metadata = MetaData()
    table = inbox_table(metadata, "seen", schema="messaging")
    assert inbox_table(metadata, "seen", schema="messaging") is table
    assert table.fullname == "messaging.seen"
    with pytest.raises(TypeError, match="needs a MetaData, not the class Base: pass Base.metadata"):
        inbox_table(type("Base", (), {}))  # type: ignore[arg-type]


async def test_a_session_without_an_engine_is_reported() -> None:
    bus = bus_with(SQLAlchemyInbox(async_sessionmaker()), on(Probe("writer")))
    with pytest.raises(InboxTableError, match="the session has no engine for it.*table=inbox"):
        await bus.startup()


def test_a_consumer_that_the_table_cannot_hold_is_never_made() -> None:
    assert len(Probe("x" * LONGEST_CONSUMER).name) <= LONGEST_NAME
    with pytest.raises(InvalidTopologyError):
        Probe("x" * (LONGEST_CONSUMER + 1))


async def test_two_inboxes_on_one_bus_are_refused(database: SQLAlchemyInboxDatabase) -> None:
    another = SQLAlchemyInbox(database.sessions)
    for pair in ([database.inbox, another], [another, another]):
        bus = InMemoryIntegrationEventBus([on(Probe("writer"))], middlewares=pair)
        with pytest.raises(InvalidTopologyError, match="the bus has 2 inboxes"):
            await bus.startup()


async def test_a_shared_connection_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    async with created(make_url("sqlite+aiosqlite://")) as database:
        async with bus_with(database.inbox, on(writing(database))) as bus:
            await bus.send(TOPIC, Numbered(1))
            await until_quiet(bus)
        assert await database.effects() == [1]
    assert "shares one connection among all its users" in caplog.text


async def test_an_engine_that_commits_each_statement_is_refused(
    database: SQLAlchemyInboxDatabase,
) -> None:
    """The row of a handler that raised would be there, and its next attempt a duplicate."""
    of_the_engine = create_async_engine(database.engine.url, isolation_level="AUTOCOMMIT")
    of_an_option = database.engine.execution_options(isolation_level="AUTOCOMMIT")
    for engine in (of_the_engine, of_an_option):
        inbox = SQLAlchemyInbox(async_sessionmaker(engine))
        with pytest.raises(InboxError, match=r"inbox\.db commits each statement by itself"):
            await bus_with(inbox, on(Probe("writer"))).startup()
    await of_the_engine.dispose()


async def test_where_startup_cannot_look_an_event_in_autocommit_is_a_dead_letter(
    database: SQLAlchemyInboxDatabase,
) -> None:
    engine = database.engine.execution_options(isolation_level="AUTOCOMMIT")
    probe = Probe("writer")
    async with AsyncSession(engine) as session:

        async def borrowed() -> AsyncSession:
            return session

        bus = bus_with(SQLAlchemyInbox(borrowed), on(probe, retry=THRICE))
        await bus.startup()
        await bus.send(TOPIC, Numbered(1))
        await until_quiet(bus)
        (letter,) = await bus.dead_letters("writer")
        await bus.shutdown()
    assert "commits each statement by itself" in letter.error
    assert (probe.numbers, await database.rows()) == ([], 0)


def test_outside_of_a_handler_there_is_no_session() -> None:
    with pytest.raises(InvalidTopologyError, match=r"middlewares=\[SQLAlchemyInbox\(sessions\)\]"):
        current_session()


async def test_a_database_that_is_away_at_startup_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/no/such/folder.db")
    inbox = SQLAlchemyInbox(async_sessionmaker(engine), timeout=0)
    async with bus_with(inbox, on(Probe("writer"))) as bus:
        assert "cannot check its table yet" in caplog.text
        await bus.send(TOPIC, Numbered(1))
        await until_quiet(bus)
        (letter,) = await bus.dead_letters("writer")
        assert "unable to open database file" in letter.error
    await engine.dispose()


# --- whose message it is ----------------------------------------------------------------------


def key(id: str, topic: str = "t", **headers: str) -> str:
    return message_key(Delivery(topic, "c", id, b"", {f"ce-{k}": v for k, v in headers.items()}))


def test_events_are_distinguished_by_topic_source_and_id() -> None:
    assert key("42", "t", source="/a") == "t /a 42"
    for each in ("42", ID):
        same_id = [key(each), key(each, "u"), key(each, source="/a"), key(each, source="/b")]
        assert len(set(same_id)) == 4
    long = [key("x" * 300), key("x" * 301), key("x y"), key("x:y"), key("y", "t:", source="x")]
    assert len(set(long)) == 5
    assert all(len(each) <= 255 for each in long)
    assert key("x" * 300) == key("x" * 300)
    assert key("\ud800").startswith("sha256:")


# --- retention --------------------------------------------------------------------------------


async def fill(database: SQLAlchemyInboxDatabase, ages: list[timedelta]) -> None:
    now = datetime.now(UTC)
    async with database.engine.begin() as connection:
        await connection.execute(
            insert(database.table),
            [
                {"consumer": "c", "message_id": str(n), "handled_at": now - age}
                for n, age in enumerate(ages)
            ],
        )


async def test_purge_removes_what_is_older_and_nothing_else(
    database: SQLAlchemyInboxDatabase,
) -> None:
    inbox = SQLAlchemyInbox(database.sessions, retention=timedelta(days=7))
    days = [timedelta(days=n / 100, microseconds=n) for n in range(2500)]
    await fill(database, [timedelta(days=6)] * 10 + [timedelta(days=8)] * 1500 + days)
    await inbox.startup()
    older = 1500 + sum(day > timedelta(days=7) for day in days)
    assert await inbox.purge() == older
    assert await database.rows() == 10 + 2500 + 1500 - older
    assert await inbox.purge() == 0
    await inbox.shutdown()


async def test_it_purges_on_its_own(
    database: SQLAlchemyInboxDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "events.integration")
    inbox = SQLAlchemyInbox(database.sessions, purge_every=0.01)
    await fill(database, [timedelta(days=8), timedelta(days=6)])
    async with bus_with(inbox):
        await eventually(lambda: "removed 1 rows of the inbox" in caplog.text)
        await fill_again(database)
        await eventually(lambda: caplog.text.count("removed 1 rows of the inbox") == 2)
    assert await database.rows() == 1


async def fill_again(database: SQLAlchemyInboxDatabase) -> None:
    old = datetime.now(UTC) - timedelta(days=9)
    async with database.engine.begin() as connection:
        row = {"consumer": "c", "message_id": "again", "handled_at": old}
        await connection.execute(insert(database.table), row)


async def test_a_purge_that_fails_is_logged_and_tried_again(
    database: SQLAlchemyInboxDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "events.integration")
    inbox = SQLAlchemyInbox(database.sessions, purge_every=0.01)
    await fill(database, [timedelta(days=8)])
    async with bus_with(inbox):
        async with database.engine.begin() as connection:
            await connection.execute(text("ALTER TABLE inbox RENAME TO away"))
        await eventually(lambda: "cannot remove old rows of the inbox" in caplog.text)
        async with database.engine.begin() as connection:
            await connection.execute(text("ALTER TABLE away RENAME TO inbox"))
        await eventually(lambda: _is_empty(database))


async def test_without_a_retention_nothing_is_removed(database: SQLAlchemyInboxDatabase) -> None:
    inbox = SQLAlchemyInbox(database.sessions, retention=None, purge_every=0.001)
    await fill(database, [timedelta(days=10_000)])
    async with bus_with(inbox):
        assert await inbox.purge() == 0
        await asyncio.sleep(0.01)
    assert await database.rows() == 1


@pytest.mark.parametrize(
    ("retention", "policy", "warned"),
    [
        (timedelta(days=7), RetryPolicy(), []),
        (None, RetryPolicy(), []),
        (timedelta(days=1), RetryPolicy(), ["redriven dead letters may arrive for 3 days"]),
        (
            timedelta(days=4),
            RetryPolicy(attempts=11, delay=86_400, factor=1, max_delay=10**6, jitter=0),
            ["retries may arrive for 10 days"],
        ),
    ],
)
async def test_a_retention_that_is_too_short_is_warned_of(
    database: SQLAlchemyInboxDatabase,
    caplog: pytest.LogCaptureFixture,
    retention: timedelta | None,
    policy: RetryPolicy,
    warned: list[str],
) -> None:
    inbox = SQLAlchemyInbox(database.sessions, retention=retention)
    async with bus_with(inbox, on(Probe("writer"), retry=policy)):
        pass
    lines = [r.getMessage() for r in caplog.records if "deletes after" in r.getMessage()]
    assert len(lines) == len(warned)
    for line, what in zip(lines, warned, strict=True):
        assert what in line
        assert "'writer'" in line


async def _is_empty(database: SQLAlchemyInboxDatabase) -> bool:
    return await database.rows() == 0


@pytest.mark.parametrize("name", ["mysql", "mariadb"])
def test_the_table_can_be_rolled_back_whatever_engine_the_server_prefers(name: str) -> None:
    """In one that cannot, the row of an attempt that failed would stay: the event would be lost."""
    dialect = make_url(f"{name}+asyncmy://").get_dialect()()
    ddl = CreateTable(inbox_table(MetaData())).compile(dialect=dialect)
    assert "ENGINE=InnoDB" in str(ddl)


async def test_objects_that_would_be_committed_apart_from_the_row_are_refused(
    database: SQLAlchemyInboxDatabase, tmp_path: Path
) -> None:
    class Base(DeclarativeBase):
        pass

    class Elsewhere(Base):
        __tablename__ = "elsewhere"
        id: Mapped[int] = mapped_column(primary_key=True)

    other = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/other.db")
    async with other.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    binds = {database.table: database.engine, Elsewhere: other}
    inbox = SQLAlchemyInbox(async_sessionmaker(binds=binds), table=database.table)

    async def write(_: IntegrationEvent) -> None:
        current_session().add(Elsewhere(id=1))

    async with bus_with(inbox, on(Probe("writer", write))) as bus:
        await bus.send(TOPIC, Numbered(1))
        await until_quiet(bus)
        (letter,) = await bus.dead_letters("writer")
    assert "is not the engine of the handler's objects" in letter.error
    async with other.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM elsewhere"))).scalar_one() == 0
    assert await database.rows() == 0
    await other.dispose()


async def test_a_task_that_outlives_its_handler_gets_no_session(
    database: SQLAlchemyInboxDatabase,
) -> None:
    handled, tasks = asyncio.Event(), list[asyncio.Task[None]]()

    async def later() -> None:
        await handled.wait()
        await database.write(1)

    async def start(_: IntegrationEvent) -> None:
        tasks.append(asyncio.create_task(later()))

    async with bus_with(database.inbox, on(Probe("starter", start))) as bus:
        await bus.send(TOPIC, Numbered(1))
        await until_quiet(bus)
    handled.set()
    with pytest.raises(InboxError, match="await the task in the handler"):
        await tasks[0]
    assert await database.effects() == []
