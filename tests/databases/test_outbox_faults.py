"""A relay whose database goes away: killed, frozen, come back. Nothing is lost, nothing is blamed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import pytest
from sqlalchemy import MetaData, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from events.errors import OutboxError, OutboxTableError
from events.integration.event import IntegrationEvent
from events.integration.implementation.sqlalchemy import (
    SQLAlchemyOutbox,
    SQLAlchemyOutboxStore,
    outbox_table,
)
from events.integration.outbox import OutboxRelay, Parked
from events.integration.topology import Topic
from events.testing import eventually
from events.testing.contracts.outbox import ForwardedBus, pending
from tests.databases import mariadb_server, postgresql_server
from tests.databases.database import Database, new_database
from tests.servers import PrivateServer

DEADLINE = 120.0
TABLE = outbox_table(MetaData())
TOPIC = Topic("numbers")
RELAYS = ("outbox", "outbox_relays", "outbox_scheduled", "outbox_recurring")
DRIVERS = {
    "asyncpg": ("postgresql", "postgresql+asyncpg"),
    "psycopg": ("postgresql", "postgresql+psycopg"),
    "asyncmy": ("mariadb", "mariadb+asyncmy"),
}


@dataclass(frozen=True)
class Numbered(IntegrationEvent):
    type = "test.database_faults.numbered"
    version = 1
    number: int


@dataclass
class Private:
    server: PrivateServer
    engine: AsyncEngine

    async def put(self, *numbers: int) -> None:
        async with AsyncSession(self.engine) as session, session.begin():
            for number in numbers:
                await SQLAlchemyOutbox(session).put(TOPIC, Numbered(number))


@pytest.fixture(params=DRIVERS)
def made(request: pytest.FixtureRequest) -> Generator[tuple[PrivateServer, Database, str]]:
    kind, driver = DRIVERS[request.param]
    module = postgresql_server if kind == "postgresql" else mariadb_server
    with module.private_server() as server, new_database(kind, server.url) as database:
        yield server, database, driver
        server.thaw()


@pytest.fixture
async def private(made: tuple[PrivateServer, Database, str]) -> AsyncGenerator[Private]:
    server, database, driver = made
    engine = create_async_engine(database.url(driver), pool_pre_ping=True)
    async with engine.begin() as connection:
        await connection.run_sync(TABLE.metadata.create_all)
    yield Private(server, engine)
    await engine.dispose()


async def test_a_database_that_crashed_is_waited_for_and_then_emptied(
    private: Private, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "events.integration")
    bus = ForwardedBus()
    store = SQLAlchemyOutboxStore(private.engine)
    async with OutboxRelay(store, bus, lease=3.0) as relay:
        await private.put(1)
        await eventually(lambda: bus.numbers == [1], DEADLINE)
        await asyncio.to_thread(private.server.kill)
        await eventually(lambda: relay.health().outage, DEADLINE)
        assert relay.health().alive
        await asyncio.to_thread(private.server.start)
        await private.put(2, 3)
        await eventually(lambda: sorted(set(bus.numbers)) == [1, 2, 3], DEADLINE)
        await eventually(lambda: relay.health().healthy, DEADLINE)
    rows = await pending(store)
    assert rows == []
    waits = [r for r in caplog.records if "waits and tries again" in r.getMessage()]
    kinds = {record.getMessage().split("again: ")[1].split(":")[0] for record in waits}
    assert 1 <= len(waits) <= len(kinds) + 1, "each kind of outage is logged once"


async def test_a_database_that_goes_away_at_each_step_loses_nothing(private: Private) -> None:
    """Killed after the relay has read, has sent, and has removed."""
    bus = ForwardedBus()
    steps: list[str] = []
    at: list[str] = []

    def on_step(step: str) -> None:
        steps.append(step)
        if at and step == at[0]:
            at.pop()
            private.server.kill()

    store = SQLAlchemyOutboxStore(private.engine)
    async with OutboxRelay(store, bus, lease=3.0, on_step=on_step) as relay:
        for number, step in enumerate(("selected", "sent", "removed")):
            at[:] = [step]
            # The relay may see the commit, and end the server, before its writer hears of it.
            with suppress(DBAPIError, OSError):
                await private.put(number)
            await eventually(lambda: not at, DEADLINE)
            await asyncio.to_thread(private.server.start)
            # Until it is removed, too: that step would end the server before the next is written.
            await eventually(partial(_is_settled, bus, steps, number), DEADLINE)
        await eventually(lambda: relay.health().healthy, DEADLINE)
        async with asyncio.timeout(DEADLINE):
            await relay.drain()
    assert sorted(bus.numbers) == [0, 1, 2], "it is sent once, as a relay that lives insists"
    assert await pending(store) == []


async def test_a_lost_listener_is_reported_polling_goes_on_and_it_listens_again(
    private: Private, caplog: pytest.LogCaptureFixture
) -> None:
    if private.engine.dialect.name != "postgresql":
        pytest.skip("MariaDB has nothing to listen to: relays poll there")
    caplog.set_level(logging.INFO, "events.integration")
    bus = ForwardedBus()
    others = create_async_engine(private.engine.url)
    async with OutboxRelay(SQLAlchemyOutboxStore(private.engine), bus, poll_interval=3_600.0):
        listening = text("SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")

        async def listener() -> int | None:
            async with others.connect() as connection:
                pid: int | None = (await connection.execute(listening)).scalar()
                return pid

        first = await eventually(listener, DEADLINE)
        async with others.connect() as connection:
            await connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": first})
        await eventually(lambda: "listens on 'events.outbox' again" in caplog.text, DEADLINE)
        assert await listener() not in {None, first}
        # Nothing else wakes it: the commit is of another engine, whose URL differs.
        elsewhere = create_async_engine(others.url.update_query_dict({}).set(host="localhost"))
        async with AsyncSession(elsewhere) as session, session.begin():
            await SQLAlchemyOutbox(session).put(TOPIC, Numbered(1))
        await eventually(lambda: bus.numbers == [1], DEADLINE)
        await elsewhere.dispose()
    await others.dispose()


async def test_a_table_that_is_missing_or_older_is_named(private: Private) -> None:
    async with private.engine.begin() as connection:
        await connection.execute(text("DROP TABLE outbox_parked"))
    with pytest.raises(OutboxTableError, match=r"'outbox_parked': it does not exist.*outbox_table"):
        await OutboxRelay(SQLAlchemyOutboxStore(private.engine), ForwardedBus()).startup()
    async with private.engine.begin() as connection:
        await connection.run_sync(TABLE.metadata.create_all)
        await connection.execute(text("ALTER TABLE outbox_relays DROP COLUMN partitions"))
    with pytest.raises(OutboxTableError, match="'outbox_relays': it has no column partitions"):
        await OutboxRelay(SQLAlchemyOutboxStore(private.engine), ForwardedBus()).startup()
    async with private.engine.begin() as connection:
        await connection.execute(text("DROP TABLE outbox"))
    with pytest.raises(OutboxTableError, match="(?s)'outbox': .*outbox.*add it to your MetaData"):
        await private.put(1)


async def test_missing_rights_are_reported_before_the_first_row_needs_them(
    private: Private,
) -> None:
    on_postgresql = private.engine.dialect.name == "postgresql"
    user = "clerk" if on_postgresql else "'clerk'@'%'"
    rights = [f"GRANT SELECT, INSERT, UPDATE, DELETE ON {t} TO {user}" for t in RELAYS]
    made = f"CREATE USER {user}"
    async with private.engine.begin() as connection:
        for statement in (made, *rights, f"GRANT SELECT ON outbox_parked TO {user}"):
            await connection.execute(text(statement))
    clerk = create_async_engine(private.engine.url.set(username="clerk"))
    with pytest.raises(OutboxError, match=r"may not move rows from 'outbox' to 'outbox_parked'.*"):
        await OutboxRelay(SQLAlchemyOutboxStore(clerk), ForwardedBus()).startup()
    async with private.engine.begin() as connection:
        await connection.execute(text(f"GRANT INSERT ON outbox_parked TO {user}"))
    async with OutboxRelay(SQLAlchemyOutboxStore(clerk), ForwardedBus()) as relay:
        await eventually(lambda: relay.health().partitions, DEADLINE)
    await clerk.dispose()


async def test_any_number_of_parked_rows_is_redriven_at_once_in_order(private: Private) -> None:
    rows = 2_500
    store = SQLAlchemyOutboxStore(private.engine)
    await private.put(*range(rows))
    await store.park([Parked(row.id, "r", "e", 1) for row in await pending(store)])
    ids = [row.id for row in await store.parked(limit=rows, after=None)]
    assert len(ids) == rows
    assert await store.redrive([*reversed(ids), *range(10**6, 10**6 + 40_000)]) == ids
    bus = ForwardedBus()
    async with OutboxRelay(store, bus) as relay, asyncio.timeout(DEADLINE):
        await relay.drain()
    assert bus.numbers == list(range(rows))


async def test_of_two_who_redrive_the_same_row_one_finds_it(private: Private) -> None:
    store = SQLAlchemyOutboxStore(private.engine)
    await private.put(1)
    (row,) = await pending(store)
    await store.park([Parked(row.id, "r", "e", 1)])
    found = await asyncio.gather(*(store.redrive([row.id]) for _ in range(8)))
    assert sorted(map(len, found)) == [0] * 7 + [1]
    assert len(await pending(store)) == 1


async def test_a_body_at_the_limit_and_long_headers_fit(private: Private) -> None:
    bus = ForwardedBus()
    async with AsyncSession(private.engine) as session, session.begin():
        await SQLAlchemyOutbox(session, max_body_size=4 << 20).put(
            TOPIC, Numbered(1), headers={"long": "ä" * 30_000}, key="k" * 255
        )
    async with OutboxRelay(SQLAlchemyOutboxStore(private.engine), bus) as relay:
        async with asyncio.timeout(DEADLINE):
            await relay.drain()
    assert bus.messages[0].headers["long"] == "ä" * 30_000


async def test_an_idle_relay_asks_less_than_once_a_second(private: Private) -> None:
    """Counted as what it asks in the time that its own waiting adds up to, not in seconds."""
    asked: list[str] = []

    @event.listens_for(private.engine.sync_engine, "before_cursor_execute")
    def note(conn: object, cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    loop = asyncio.get_running_loop()
    async with OutboxRelay(SQLAlchemyOutboxStore(private.engine), ForwardedBus()) as relay:
        await eventually(lambda: relay.health().partitions, DEADLINE)
        # Its polls double from 10 ms to two seconds, in about four: wait until they have.
        started = loop.time()
        await eventually(lambda: loop.time() - started > 6, DEADLINE)
        await eventually(lambda: (relay.health().last_read or 0) > 1.5, DEADLINE)
        began, before = loop.time(), len(asked)
        await eventually(lambda: loop.time() - began > 11, DEADLINE)
        assert (len(asked) - before) / (loop.time() - began) < 1


def _is_settled(bus: ForwardedBus, steps: Sequence[str], number: int) -> bool:
    return number in bus.numbers and steps.count("sent") == steps.count("removed")
