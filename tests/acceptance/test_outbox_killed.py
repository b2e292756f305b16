"""Writers and relays killed at random on one SQLite file: nothing lost, nothing invented.

As a program this file is one of the processes:

    writer <database>             commits a user and an event, one after the other, for ever
    relay <database> <journal> [lease]    moves what is there into the journal, for ever
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from events.integration.bus import IntegrationEventBus
from events.integration.event import IntegrationEvent
from events.integration.implementation.sqlalchemy import (
    SQLAlchemyOutbox,
    SQLAlchemyOutboxStore,
    enable_wal,
    outbox_table,
)
from events.integration.message import Message
from events.integration.outbox import OutboxRelay
from events.integration.topology import Topic

DEADLINE = 120.0


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)


outbox_table(Base.metadata)


@dataclass(frozen=True)
class UserMade(IntegrationEvent):
    type = "test.killed.user_made"
    version = 1
    user: int


class JournalBus(IntegrationEventBus):
    """Its broker is a file: a line of event id and user for each message."""

    def __init__(self, journal: Path) -> None:
        super().__init__()
        self.journal = journal

    async def forward(self, messages: Sequence[Message]) -> list[None]:
        with self.journal.open("a") as file:
            for message in messages:
                event = IntegrationEvent.from_dict(json.loads(message.body))
                assert isinstance(event, UserMade)
                file.write(f"{message.id} {event.user}\n")
                file.flush()
                os.fsync(file.fileno())
        return [None] * len(messages)

    async def send(self, topic: Topic, event: IntegrationEvent) -> None:
        raise NotImplementedError


async def write(engine: AsyncEngine) -> None:
    while True:
        async with AsyncSession(engine) as session, session.begin():
            user = User()
            session.add(user)
            await session.flush()
            await SQLAlchemyOutbox(session).put(Topic("users"), UserMade(user.id))


async def relay(engine: AsyncEngine, journal: str, lease: str = "1.0") -> None:
    store, bus = SQLAlchemyOutboxStore(engine), JournalBus(Path(journal))
    # Past its grace it would give up the batches in flight, so that they are sent again.
    await OutboxRelay(store, bus, batch=7, lease=float(lease), shutdown_grace=DEADLINE).run()


@asynccontextmanager
async def started(*arguments: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(sys.executable, __file__, *arguments)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


async def grown(path: Path, beyond: int) -> None:
    """Wait until the journal is longer than it was."""
    async with asyncio.timeout(DEADLINE):
        while size(path) <= beyond:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("kills", [4, pytest.param(12, marks=pytest.mark.confidence)])
async def test_writers_and_relays_killed_at_random_lose_nothing(kills: int, tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it when the test fails
    chance = random.Random(seed)
    url = f"sqlite+aiosqlite:///{tmp_path}/shop.db"
    journal = tmp_path / "journal"
    engine = create_async_engine(url)
    await enable_wal(engine)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    for _ in range(kills):
        before = size(journal)
        async with started("writer", url) as writer, started("relay", url, str(journal)) as mover:
            await grown(journal, before + chance.randrange(2_000))
            first, second = chance.sample([writer, mover], 2)
            first.kill()
            await first.wait()
            second.kill()
            await second.wait()
            assert {writer.returncode, mover.returncode} == {-signal.SIGKILL}

    async with OutboxRelay(SQLAlchemyOutboxStore(engine), JournalBus(journal), lease=1.0) as last:
        async with asyncio.timeout(DEADLINE):
            await last.drain()
    async with engine.connect() as connection:
        users = set((await connection.execute(select(User.id))).scalars())
        outbox = outbox_table(Base.metadata)
        left = (await connection.execute(select(func.count()).select_from(outbox))).scalar_one()
    await engine.dispose()

    lines = Counter(tuple(line.split()) for line in journal.read_text().splitlines())
    assert {int(user) for _, user in lines} == users
    assert len({id_ for id_, _ in lines}) == len(users), "an event has had two ids"
    assert left == 0
    # A kill can repeat the two batches that are in flight, no more.
    assert sum(lines.values()) - len(lines) <= kills * 2 * 7


async def test_sigterm_ends_a_relay_without_duplicates(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/shop.db"
    journal = tmp_path / "journal"
    engine = create_async_engine(url)
    await enable_wal(engine)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(engine) as session, session.begin():
        for number in range(2_000):
            await SQLAlchemyOutbox(session).put(Topic("users"), UserMade(number))
    async with started("relay", url, str(journal), "30") as mover:
        await grown(journal, 0)
        mover.terminate()
        async with asyncio.timeout(DEADLINE):
            assert await mover.wait() == 0
    sent = journal.read_text().splitlines()
    async with engine.connect() as connection:
        outbox = outbox_table(Base.metadata)
        left = (await connection.execute(select(func.count()).select_from(outbox))).scalar_one()
    await engine.dispose()
    assert len(sent) == len(set(sent))
    assert len(sent) + left == 2_000


async def main(role: str, url: str, *arguments: str) -> None:
    # On a busy machine one waits long for the other's write, which is no reason to end.
    engine = create_async_engine(url, connect_args={"timeout": 60})
    if role == "writer":
        await write(engine)
    else:
        await relay(engine, *arguments)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
