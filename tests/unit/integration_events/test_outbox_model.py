"""Whatever a session goes through, events and aggregates that were saved together are the same.

Each `put` stands beside an aggregate with the same number. SQLAlchemy and SQLite decide which
aggregates are in the database at the end; the outbox must hold exactly their events, in order.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from events.integration.event import IntegrationEvent
from events.integration.implementation.sqlalchemy import (
    SQLAlchemyOutbox,
    SQLAlchemyOutboxStore,
    outbox_table,
)
from events.integration.topology import Topic
from events.testing.contracts.outbox import pending


@dataclass(frozen=True)
class Made(IntegrationEvent):
    type = "test.model.made"
    version = 1
    number: int


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "things"
    number: Mapped[int] = mapped_column(primary_key=True)


outbox_table(Base.metadata)

ACTIONS = (
    "put",
    "flush",
    "begin savepoint",
    "release savepoint",
    "roll back savepoint",
    "commit",
    "commit root",
    "roll back",
    "close",
)


class Runner:
    def __init__(self, session: AsyncSession) -> None:
        self.session = session
        self.number = 0
        self.savepoints: list[AsyncSessionTransaction] = []

    async def act(self, action: str) -> None:
        session = self.session
        match action:
            case "put":
                session.add(Thing(number=self.number))
                await SQLAlchemyOutbox(session).put(Topic("things"), Made(self.number))
                self.number += 1
            case "flush":
                await session.flush()
            case "begin savepoint":
                self.savepoints.append(await session.begin_nested())
            case "release savepoint" | "roll back savepoint":
                # Any of them: those inside end with it.
                if self.savepoints:
                    at = self.number % len(self.savepoints)
                    savepoint = self.savepoints[at]
                    del self.savepoints[at:]
                    if action.startswith("release"):
                        await savepoint.commit()
                    else:
                        await savepoint.rollback()
            case "commit root":
                root = session.get_transaction()
                self.savepoints.clear()
                if root is not None:
                    await root.commit()
            case _:
                self.savepoints.clear()
                verb = {"commit": "commit", "roll back": "rollback", "close": "close"}[action]
                await getattr(session, verb)()


async def run(actions: Sequence[str]) -> tuple[list[int], list[int]]:
    with tempfile.TemporaryDirectory() as folder:
        engine = create_async_engine(f"sqlite+aiosqlite:///{folder}/outbox.db")

        # SQLite's driver begins no transaction before a SAVEPOINT, so that its release commits:
        # SQLAlchemy's documentation has this cure.
        @event.listens_for(engine.sync_engine, "connect")
        def connect(connection: Any, record: object) -> None:
            connection.isolation_level = None
            cursor = connection.cursor()
            cursor.execute("PRAGMA synchronous=OFF")
            cursor.close()

        @event.listens_for(engine.sync_engine, "begin")
        def begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN")

        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine) as session:
            runner = Runner(session)
            for action in actions:
                await runner.act(action)
        async with engine.connect() as connection:
            things = await connection.execute(select(Thing.number).order_by(Thing.number))
            saved = list(things.scalars())
        rows = await pending(SQLAlchemyOutboxStore(engine))
        await engine.dispose()
        return saved, [msgspec.json.decode(row.message.body)["number"] for row in rows]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(ACTIONS), max_size=25).map(lambda actions: [*actions, "commit"]))
def test_events_are_those_of_the_aggregates_that_were_saved(actions: list[str]) -> None:
    things, events = asyncio.run(run(actions))
    assert events == things


def test_the_model_saves_and_drops() -> None:
    actions = ["put", "begin savepoint", "put", "roll back savepoint", "put", "commit root", "put"]
    assert asyncio.run(run(actions)) == ([0, 2], [0, 2])
