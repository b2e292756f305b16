"""What becomes of events whose session ends without a commit, on each database."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import String
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    AsyncSessionTransaction,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from events.errors import InboxError, OutboxTableError
from events.integration import IntegrationEvent, Topic
from events.integration.implementation.sqlalchemy import (
    SQLAlchemyInbox,
    SQLAlchemyOutbox,
    SQLAlchemyOutboxStore,
    current_session,
    inbox_table,
    outbox_table,
)
from events.testing.contracts._inbox_database import deliver
from events.testing.contracts.outbox import pending
from tests.databases.database import new_database

DRIVERS = ["sqlite+aiosqlite", "postgresql+asyncpg", "postgresql+psycopg", "mariadb+asyncmy"]
USERS = Topic("users")


@dataclass(frozen=True)
class Registered(IntegrationEvent):
    type = "test.unsent.registered"
    version = 1
    number: int


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str | None] = mapped_column(String(20))


outbox_table(Base.metadata)
INBOX = inbox_table(Base.metadata)


@pytest.fixture(params=DRIVERS)
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    kind = request.param.partition("+")[0]
    if kind == "sqlite":
        async with made(create_async_engine(f"{request.param}:///{tmp_path}/unsent.db")) as engine:
            yield engine
        return
    with new_database(kind) as database:
        async with made(create_async_engine(database.url(request.param))) as engine:
            yield engine


@asynccontextmanager
async def made(engine: AsyncEngine) -> AsyncGenerator[AsyncEngine]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


async def _closed(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        await SQLAlchemyOutbox(session).put(USERS, Registered(1))


async def _reset(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        await SQLAlchemyOutbox(session).put(USERS, Registered(1))
        await session.reset()


async def _closed_in_a_savepoint(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        await session.begin_nested()
        await SQLAlchemyOutbox(session).put(USERS, Registered(1))


async def _schedule(session: AsyncSession, schedule_id: str) -> None:
    outbox, tomorrow = SQLAlchemyOutbox(session), datetime.now(UTC) + timedelta(days=1)
    await outbox.put(USERS, Registered(1), available_at=tomorrow, schedule_id=schedule_id)


async def _scheduled(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        await _schedule(session, "reminder")


async def _scheduled_in_a_savepoint(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session, session.begin_nested():
        await _schedule(session, "reminder")


async def _put_after_the_commit(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        async with session.begin():
            session.add(User(id=1, name="a"))
        await SQLAlchemyOutbox(session).put(USERS, Registered(1))


async def _put_after_the_close(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        pass
    await SQLAlchemyOutbox(session).put(USERS, Registered(1))


async def _never_closed(engine: AsyncEngine) -> None:
    await SQLAlchemyOutbox(AsyncSession(engine)).put(USERS, Registered(1))


@pytest.mark.parametrize(
    "lose",
    [
        _closed,
        _reset,
        _closed_in_a_savepoint,
        _scheduled,
        _scheduled_in_a_savepoint,
        _put_after_the_commit,
        _put_after_the_close,
        _never_closed,
    ],
)
async def test_events_whose_session_ends_without_a_word_are_named_in_a_warning(
    engine: AsyncEngine,
    caplog: pytest.LogCaptureFixture,
    lose: Callable[[AsyncEngine], Awaitable[None]],
) -> None:
    await lose(engine)
    gc.collect()
    (record,) = [r for r in caplog.records if r.name == "events.integration"]
    assert record.levelno == logging.WARNING
    assert "events that were put will not be sent" in record.getMessage()
    assert Registered.type in record.getMessage()
    assert await pending(SQLAlchemyOutboxStore(engine)) == []


async def test_the_warning_does_not_name_thousands(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async with AsyncSession(engine) as session:
        for number in range(100):
            await SQLAlchemyOutbox(session).put(USERS, Registered(number))
    assert "and 90 more" in caplog.text


async def _committed(session: AsyncSession) -> None:
    await session.commit()


async def _rolled_back(session: AsyncSession) -> None:
    await session.rollback()


async def _rolled_back_by_a_flush(session: AsyncSession) -> None:
    session.add_all([User(id=1), User(id=1)])
    with pytest.raises(IntegrityError):
        await session.flush()


async def _refused_by_the_commit(session: AsyncSession) -> None:
    await (await session.connection()).exec_driver_sql("DROP TABLE outbox")
    with pytest.raises(OutboxTableError):
        await session.commit()


@pytest.mark.parametrize(
    "end", [_committed, _rolled_back, _rolled_back_by_a_flush, _refused_by_the_commit]
)
async def test_a_session_that_commits_or_rolls_back_its_events_warns_of_nothing(
    engine: AsyncEngine,
    caplog: pytest.LogCaptureFixture,
    end: Callable[[AsyncSession], Awaitable[None]],
) -> None:
    async with AsyncSession(engine) as session:
        for ends in (AsyncSessionTransaction.rollback, AsyncSessionTransaction.commit):
            savepoint = await session.begin_nested()
            await SQLAlchemyOutbox(session).put(USERS, Registered(1))
            await _schedule(session, ends.__name__)
            await ends(savepoint)
            del savepoint
        await end(session)
    del session
    gc.collect()
    assert [r.getMessage() for r in caplog.records if r.name == "events.integration"] == []


class HasInbox:
    def __init__(self, engine: AsyncEngine) -> None:
        self.inbox = SQLAlchemyInbox(async_sessionmaker(engine), table=INBOX)


async def test_what_a_background_task_writes_after_its_inbox_handler_is_refused(
    engine: AsyncEngine,
) -> None:
    handled, tasks = asyncio.Event(), list[asyncio.Task[None]]()

    async def later() -> None:
        await handled.wait()
        await SQLAlchemyOutbox(current_session()).put(USERS, Registered(1))

    async def start() -> None:
        tasks.append(asyncio.create_task(later()))

    assert await deliver(HasInbox(engine), start)
    handled.set()
    with pytest.raises(InboxError, match="await the task in the handler"):
        await tasks[0]
    assert await pending(SQLAlchemyOutboxStore(engine)) == []
