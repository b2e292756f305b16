"""`SQLAlchemyOutbox` on real SQLite files: what a session's or a connection's life does to rows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text, create_engine, event, func, select
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.util import await_only

from events.errors import (
    EventEncodeError,
    InvalidTopologyError,
    MessageTooLargeError,
    OutboxError,
    OutboxTableError,
)
from events.integration.event import IntegrationEvent
from events.integration.implementation.sqlalchemy import (
    PARTITIONS,
    SQLAlchemyIntegrationEventBus,
    SQLAlchemyOutbox,
    SQLAlchemyOutboxStore,
    bus_table,
    enable_wal,
    outbox_table,
    partition_of,
)
from events.integration.implementation.sqlalchemy._wakeup import listening
from events.integration.limits import MAX_HEADERS_SIZE
from events.integration.message import Delivery, _current
from events.integration.topology import Topic
from events.testing.contracts.outbox import pending

USERS = Topic("users")


@dataclass(frozen=True)
class Registered(IntegrationEvent):
    type = "test.outbox.registered"
    version = 3
    number: int
    text: str = ""


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


outbox_table(Base.metadata)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{tmp_path}/outbox.db", connect_args={"timeout": 0}
    )
    await enable_wal(engine)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


async def numbers(engine: AsyncEngine, table: Table | None = None) -> list[int]:
    rows = await pending(SQLAlchemyOutboxStore(engine, table=table))
    return [IntegrationEvent.from_dict(_payload(row.message.body)).number for row in rows]  # type: ignore[attr-defined]


def _payload(body: bytes) -> dict[str, Any]:
    return msgspec.json.decode(body, type=dict[str, Any])


async def put_one(engine: AsyncEngine, table: Table | None = None) -> None:
    async with AsyncSession(engine) as session, session.begin():
        session.add(User(id=1, name="a"))
        await SQLAlchemyOutbox(session, table=table).put(USERS, Registered(1))


async def users(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return (await connection.execute(select(func.count()).select_from(User))).scalar_one()


# --- when rows are written ------------------------------------------------------------------------


async def test_rows_go_out_in_one_statement_after_the_flush(engine: AsyncEngine) -> None:
    statements: list[tuple[str, bool]] = []

    def note(
        conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> None:
        statements.append((statement.partition("(")[0].strip(), executemany))

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    async with AsyncSession(engine) as session, session.begin():
        for number in range(3):
            await SQLAlchemyOutbox(session).put(USERS, Registered(number))
        session.add(User(id=1, name="a"))
        await session.flush()
        session.add(User(id=2, name="b"))
    assert statements == [
        ("INSERT INTO users", False),
        ("INSERT INTO users", False),
        ("INSERT INTO outbox", True),
    ]
    assert await numbers(engine) == [0, 1, 2]


async def test_a_session_is_used_again_without_leftovers(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        outbox = SQLAlchemyOutbox(session)
        await outbox.put(USERS, Registered(1))
        await session.flush()
        await session.rollback()
        await outbox.put(USERS, Registered(2))
        await session.commit()
        await session.commit()
        await outbox.put(USERS, Registered(3))
        await session.close()
        await SQLAlchemyOutbox(session).put(USERS, Registered(4))
        await session.commit()
        await outbox.put(USERS, Registered(5))
    assert await numbers(engine) == [2, 4]


async def test_a_savepoint_left_open_rides_with_the_commit(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        await SQLAlchemyOutbox(session).put(USERS, Registered(1))
        await session.begin_nested()
        await SQLAlchemyOutbox(session).put(USERS, Registered(2))
        await session.begin_nested()
        await SQLAlchemyOutbox(session).put(USERS, Registered(3))
        await session.commit()
    async with AsyncSession(engine) as session:
        root = await session.begin()
        await session.begin_nested()
        await SQLAlchemyOutbox(session).put(USERS, Registered(4))
        await session.begin_nested()
        await SQLAlchemyOutbox(session).put(USERS, Registered(5))
        await root.commit()
    assert await numbers(engine) == [1, 2, 3, 4, 5]


async def test_a_savepoint_that_fails_has_no_later_one_write_before_the_commit(
    engine: AsyncEngine,
) -> None:
    written: list[str] = []

    def note(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(("INSERT INTO outbox", "UPDATE users")):
            written.append(statement.split(maxsplit=1)[0])

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    async with AsyncSession(engine) as session, session.begin():
        user = User(id=1, name="a")
        session.add(user)
        await session.flush()
        await SQLAlchemyOutbox(session).put(USERS, Registered(0))
        with pytest.raises(IntegrityError):
            async with session.begin_nested():
                session.add(User(id=2, name=None))  # refused by the flush of the savepoint's end
        async with session.begin_nested():
            await SQLAlchemyOutbox(session).put(USERS, Registered(1))
        user.name = "c"
    assert written == ["UPDATE", "INSERT"]
    assert await numbers(engine) == [0, 1]


async def test_a_put_that_comes_too_late_for_the_commit_is_reported(engine: AsyncEngine) -> None:
    def put(session: Session) -> None:
        await_only(SQLAlchemyOutbox(asynchronous).put(USERS, Registered(2)))

    for moment in ("before_commit", "after_commit"):
        async with AsyncSession(engine) as asynchronous:
            await SQLAlchemyOutbox(asynchronous).put(USERS, Registered(1))
            event.listen(asynchronous.sync_session, moment, put)
            with pytest.raises(OutboxError, match="events were put too late"):
                await asynchronous.commit()
    assert await numbers(engine) == [1, 1]


async def test_rolling_back_with_a_savepoint_open_drops_all(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        await SQLAlchemyOutbox(session).put(USERS, Registered(1))
        await session.begin_nested()
        await SQLAlchemyOutbox(session).put(USERS, Registered(2))
        await session.rollback()
        await session.commit()
    assert await numbers(engine) == []


async def test_a_commit_that_fails_can_be_tried_again(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session, engine.connect() as other:
        await SQLAlchemyOutbox(session).put(USERS, Registered(1))
        await other.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError, match="locked"):
            await session.commit()
        await other.exec_driver_sql("ROLLBACK")
        await session.commit()
    assert await numbers(engine) == [1]


async def test_put_begins_a_transaction_unless_the_session_forbids_it(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        await SQLAlchemyOutbox(session).put(USERS, Registered(1))
        assert session.in_transaction()
    async with AsyncSession(engine, autobegin=False) as session:
        with pytest.raises(OutboxError, match="autobegin=False"):
            await SQLAlchemyOutbox(session).put(USERS, Registered(1))
        async with session.begin():
            await SQLAlchemyOutbox(session).put(USERS, Registered(2))
    assert await numbers(engine) == [2]


async def test_a_connections_rows_are_written_at_once(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        outbox = SQLAlchemyOutbox(connection)
        await outbox.put(USERS, Registered(1))
        await connection.rollback()
        await outbox.put(USERS, Registered(2))
        count = select(func.count()).select_from(outbox_table(Base.metadata))
        assert (await connection.execute(count)).scalar_one() == 1
        await connection.commit()
        await outbox.put(USERS, Registered(3))
    assert await numbers(engine) == [2]


async def test_scoped_sessions_and_other_tables(engine: AsyncEngine) -> None:
    other = outbox_table(MetaData(), "mail")
    async with engine.begin() as connection:
        await connection.run_sync(other.metadata.create_all)
    scoped = async_scoped_session(async_sessionmaker(engine), scopefunc=lambda: 1)
    await SQLAlchemyOutbox(scoped).put(USERS, Registered(1))
    await SQLAlchemyOutbox(scoped, table=other).put(USERS, Registered(2))
    await scoped.commit()
    await scoped.remove()
    assert await numbers(engine) == [1]
    assert await numbers(engine, other) == [2]


# --- what a row holds -----------------------------------------------------------------------------


async def test_a_row_can_be_read_by_others(engine: AsyncEngine) -> None:
    before = datetime.now(UTC).replace(tzinfo=None)
    later = datetime(2100, 1, 1, 12, tzinfo=UTC).astimezone()
    async with AsyncSession(engine) as session, session.begin():
        outbox = SQLAlchemyOutbox(session, source="/accounts")
        await outbox.put(USERS, Registered(1, "ä"), key="k", available_at=later)
    async with engine.connect() as connection:
        row = (await connection.execute(select(outbox_table(Base.metadata)))).one()
    assert (row.topic, row.key, row.type, row.version) == ("users", "k", Registered.type, 3)
    assert row.partition_id == partition_of("k", "anything")
    assert _payload(row.body) == {"type": Registered.type, "version": 3, "number": 1, "text": "ä"}
    assert _payload(row.headers)["ce-source"] == "/accounts"
    assert _payload(row.headers)["ce-id"] == row.event_id
    assert before <= row.created_at <= datetime.now(UTC).replace(tzinfo=None)
    assert row.available_at == datetime(2100, 1, 1, 12, tzinfo=UTC).replace(tzinfo=None)
    assert (row.attempts, row.last_error) == (0, None)


def test_partitions_are_the_same_in_every_process_and_all_used() -> None:
    assert partition_of("order-1", "x") == 15
    assert partition_of(None, "order-1") == 15
    assert {partition_of(f"key-{n}", "") for n in range(2_000)} == set(range(PARTITIONS))


async def test_what_a_handler_puts_inherits_the_correlation(engine: AsyncEngine) -> None:
    headers = {"ce-id": "cause", "ce-correlationid": "story"}
    token = _current.set(Delivery("t", "c", "cause", b"{}", headers))
    try:
        async with AsyncSession(engine) as session, session.begin():
            await SQLAlchemyOutbox(session).put(USERS, Registered(1))
    finally:
        _current.reset(token)
    (row,) = await pending(SQLAlchemyOutboxStore(engine))
    assert row.message.headers["ce-correlationid"] == "story"
    assert row.message.headers["ce-causationid"] == "cause"


async def test_ids_are_never_given_twice(engine: AsyncEngine) -> None:
    store = SQLAlchemyOutboxStore(engine)
    seen: list[int] = []
    for number in range(3):
        async with AsyncSession(engine) as session, session.begin():
            await SQLAlchemyOutbox(session).put(USERS, Registered(number))
        (row,) = await pending(store)
        seen.append(row.id)
        await store.remove([row.id])
    assert seen == [1, 2, 3]


# --- nudges ---------------------------------------------------------------------------------------


async def test_only_a_commit_with_rows_nudges(engine: AsyncEngine) -> None:
    nudges: list[int] = []
    with listening(engine.url, lambda: nudges.append(1)):
        async with AsyncSession(engine) as session:
            await SQLAlchemyOutbox(session).put(USERS, Registered(1))
            await session.rollback()
            async with session.begin_nested():
                await SQLAlchemyOutbox(session).put(USERS, Registered(2))
            assert nudges == []
            await session.commit()
            assert len(nudges) == 1
            session.add(User(id=1, name="a"))
            await session.commit()
            assert len(nudges) == 1
        async with engine.connect() as connection:
            await SQLAlchemyOutbox(connection).put(USERS, Registered(1))
            await SQLAlchemyOutbox(connection).put(USERS, Registered(2))
            assert len(nudges) == 1
            await connection.commit()
            assert len(nudges) == 2
    async with AsyncSession(engine) as session, session.begin():
        await SQLAlchemyOutbox(session).put(USERS, Registered(3))
    assert len(nudges) == 2


# --- bad input ------------------------------------------------------------------------------------


async def test_without_the_table_nothing_is_saved(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/bare.db")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.tables["users"].create)
    with pytest.raises(OutboxTableError, match=r"'outbox'.*no such table.*create_all"):
        await put_one(engine)
    assert await users(engine) == 0
    async with engine.connect() as connection:
        with pytest.raises(OutboxTableError, match="no such table"):
            await SQLAlchemyOutbox(connection).put(USERS, Registered(1))
    await engine.dispose()


async def test_a_table_of_an_older_layout_is_refused(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/old.db")
    old = Table(
        "outbox", MetaData(), Column("id", Integer, primary_key=True), Column("topic", Text)
    )
    async with engine.begin() as connection:
        await connection.run_sync(old.metadata.create_all)
        await connection.run_sync(Base.metadata.tables["users"].create)
    for table in (None, old):
        with pytest.raises(OutboxTableError, match="outbox"):
            await put_one(engine, table)
        with pytest.raises(OutboxTableError, match="no column event_id, key, partition_id"):
            await SQLAlchemyOutboxStore(engine, table=table).check()
    await engine.dispose()


async def test_a_session_without_an_engine_for_the_table_says_so(engine: AsyncEngine) -> None:
    async with AsyncSession(binds={User: engine}) as session:
        await SQLAlchemyOutbox(session).put(USERS, Registered(1))
        with pytest.raises(OutboxTableError, match=r"binds=\{outbox: engine\}.*table=outbox"):
            await session.commit()
    outbox = outbox_table(MetaData())
    async with AsyncSession(binds={User: engine, outbox: engine}) as session:
        await SQLAlchemyOutbox(session, table=outbox).put(USERS, Registered(2))
        await session.commit()
    assert len(await pending(SQLAlchemyOutboxStore(engine))) == 1


async def test_what_is_no_async_session_is_refused(engine: AsyncEngine) -> None:
    sync_engine = create_engine("sqlite://")
    with Session(sync_engine) as session:
        for wrong in (session, engine, async_sessionmaker(engine)):
            with pytest.raises(TypeError, match="AsyncSession"):
                SQLAlchemyOutbox(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="AsyncEngine"):
        SQLAlchemyOutboxStore(sync_engine)  # type: ignore[arg-type]
    sync_engine.dispose()


async def test_what_cannot_be_sent_is_refused_by_put(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session, session.begin():
        outbox = SQLAlchemyOutbox(session, max_body_size=100)
        with pytest.raises(MessageTooLargeError, match="over the limit of 100"):
            await outbox.put(USERS, Registered(1, "x" * 100))
        with pytest.raises(MessageTooLargeError, match="has headers of"):
            await outbox.put(USERS, Registered(1), headers={"x-large": "x" * MAX_HEADERS_SIZE})
        with pytest.raises(OutboxError, match="255"):
            await outbox.put(USERS, Registered(1), key="k" * 256)
        with pytest.raises(OutboxError, match="a key cannot have a NUL character"):
            await outbox.put(USERS, Registered(1), key="tenant\0")
        with pytest.raises(ValueError, match="time zone"):
            await outbox.put(USERS, Registered(1), available_at=datetime.now())  # noqa: DTZ005
        with pytest.raises(InvalidTopologyError, match="Topic"):
            await outbox.put("users", Registered(1))  # type: ignore[arg-type]
        await outbox.put(USERS, Registered(2), available_at=datetime.now(UTC) - timedelta(1))
    assert await numbers(engine) == [2]


async def test_what_no_consumer_could_read_is_refused_unless_that_is_turned_off(
    engine: AsyncEngine,
) -> None:
    unreadable = Registered("one")  # type: ignore[arg-type]
    table = bus_table(MetaData())
    bus = SQLAlchemyIntegrationEventBus(engine, table=table)
    unchecked = SQLAlchemyIntegrationEventBus(engine, table=table, check_events=False)
    async with AsyncSession(engine) as session, session.begin():
        for outbox in (SQLAlchemyOutbox(session), bus.outbox(session)):
            with pytest.raises(EventEncodeError, match="no consumer could decode it"):
                await outbox.put(USERS, unreadable)
        await SQLAlchemyOutbox(session, check_events=False).put(USERS, unreadable)
        savepoint = await session.begin_nested()
        await unchecked.outbox(session).put(USERS, unreadable)
        await savepoint.rollback()
    (row,) = await pending(SQLAlchemyOutboxStore(engine))
    assert _payload(row.message.body)["number"] == "one"


@pytest.mark.parametrize("missing", ["sqlalchemy", "greenlet"])
def test_without_the_extra_the_import_names_it(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "import events.integration.implementation.sqlalchemy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtraError" in done.stderr
    assert 'pip install "integration-events[sqlalchemy]"' in done.stderr


def test_the_table_is_added_once() -> None:
    metadata = MetaData()
    table = outbox_table(metadata, "mail", schema="app")
    assert outbox_table(metadata, "mail", schema="app") is table
    assert table.fullname == "app.mail"


# --- sessions with several engines ----------------------------------------------------------------


@pytest.mark.parametrize("flushes_first", [0, 1])
async def test_rows_that_would_be_committed_apart_from_the_objects_are_refused(
    engine: AsyncEngine, tmp_path: Path, flushes_first: int
) -> None:
    other = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/other.db")
    async with other.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    outbox = Base.metadata.tables["outbox"]
    async with AsyncSession(binds={User: engine, outbox: other}) as session:
        await SQLAlchemyOutbox(session, table=outbox).put(USERS, Registered(1))
        session.add(User(id=1, name="a"))
        if flushes_first:
            await session.flush()
        with pytest.raises(OutboxTableError, match="is not the engine of the session's objects"):
            await session.commit()
    assert await users(engine) == 0
    assert await numbers(other) == []
    await other.dispose()


async def test_where_no_objects_are_written_rows_go_where_they_are_bound(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    other = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/other.db")
    async with other.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    outbox = Base.metadata.tables["outbox"]
    async with AsyncSession(binds={User: engine, outbox: other}) as session:
        assert (await session.scalars(select(User))).all() == []  # reading binds nobody
        await SQLAlchemyOutbox(session, table=outbox).put(USERS, Registered(1))
        await session.commit()
    assert await numbers(other) == [1]
    await other.dispose()
