"""Writers, relays and consumers, killed and frozen at random, with a real database and a real bus.

Each event is a new version of an account, committed with the account's row; each account is a key.
In the end every committed version has been handled, each once, and the stream at the broker has the
versions of each account in the order of their commits.

As a program this file is one of the processes:

    writer <database> <bus> <prefix>      moves random accounts to their next version, for ever
    relay <database> <bus> <prefix>       sends them, key by key
    consumer <database> <bus> <prefix>    writes down what it handles, through the inbox
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from events.integration.event import IntegrationEvent
from events.integration.implementation.nats import NatsIntegrationEventBus
from events.integration.implementation.sqlalchemy import (
    SQLAlchemyInbox,
    SQLAlchemyOutbox,
    SQLAlchemyOutboxStore,
    current_session,
    enable_wal,
    inbox_table,
    outbox_table,
)
from events.integration.outbox import OutboxRelay
from events.integration.topology import (
    EventHandlerConsumer,
    IntegrationEventBusRegistration,
    Topic,
)
from tests.brokers.nats_server import plain_url
from tests.databases.database import new_database

DEADLINE = 180.0
LEASE = 2.0
ACCOUNTS = 8
PROCESSES = {"writer": 2, "relay": 3, "consumer": 2}


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "accounts"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int]


class Effect(Base):
    """One row for each handling that was committed; nothing keeps out a second one."""

    __tablename__ = "effects"
    id: Mapped[int] = mapped_column(primary_key=True)
    account: Mapped[int]
    version: Mapped[int]


outbox = outbox_table(Base.metadata)
inbox_table(Base.metadata)


@dataclass(frozen=True)
class AccountChanged(IntegrationEvent):
    type = "test.chaos.account_changed"
    version = 1
    account: int
    number: int


def topic(prefix: str) -> Topic:
    return Topic(f"{prefix}-accounts")  # also the name of the stream


async def write(engine: AsyncEngine, prefix: str) -> None:
    while True:
        account = random.randrange(ACCOUNTS)
        async with AsyncSession(engine) as session, session.begin():
            # It locks the account's row, so its versions are committed one after another.
            await session.execute(
                update(Account).where(Account.number == account).values(version=Account.version + 1)
            )
            version = (
                await session.execute(select(Account.version).where(Account.number == account))
            ).scalar_one()
            await SQLAlchemyOutbox(session).put(
                topic(prefix), AccountChanged(account, version), key=str(account)
            )
        await asyncio.sleep(0.005)


async def relay(engine: AsyncEngine, url: str, prefix: str) -> None:
    async with NatsIntegrationEventBus(
        url, prefix=prefix, connect_timeout=60, startup_timeout=240
    ) as bus:
        store = SQLAlchemyOutboxStore(engine)
        await OutboxRelay(store, bus, order="per_key", lease=LEASE, batch=20).run()


async def consume(engine: AsyncEngine, url: str, prefix: str) -> None:
    async def handle(event: AccountChanged) -> None:
        current_session().add(Effect(account=event.account, version=event.number))

    consumer = EventHandlerConsumer("ledger", {AccountChanged: handle})
    registration = IntegrationEventBusRegistration(
        consumer, topic(prefix), consumer.handlers.keys(), concurrency=4
    )
    inbox = SQLAlchemyInbox(async_sessionmaker(engine))
    bus = NatsIntegrationEventBus(
        url,
        [registration],
        prefix=prefix,
        lease=3,
        middlewares=[inbox],
        connect_timeout=60,
        startup_timeout=240,
    )
    await bus.run()


@contextmanager
def database(kind: str, folder: Path) -> Generator[str]:
    if kind == "sqlite":
        yield f"sqlite+aiosqlite:///{folder}/chaos.db"
        return
    driver = {"postgresql": "postgresql+asyncpg", "mariadb": "mariadb+asyncmy"}[kind]
    with new_database(kind) as made:
        yield made.url(driver).render_as_string(hide_password=False)


class Crowd:
    """The processes, as many of each role as there are to be."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._running: list[tuple[str, asyncio.subprocess.Process]] = []

    async def fill(self, *, but: str = "") -> None:
        there = Counter(role for role, _ in self._running)
        for role, wanted in PROCESSES.items():
            for _ in range(0 if role == but else wanted - there[role]):
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "tests.acceptance.test_outbox_chaos",
                    role,
                    *self._arguments,
                )
                self._running.append((role, process))

    async def kill(self, chance: random.Random, role: str | None = None) -> None:
        candidates = [each for each in self._running if role in (None, each[0])]
        victim = chance.choice(candidates)
        self._running.remove(victim)
        victim[1].kill()
        await victim[1].wait()

    async def freeze(self, chance: random.Random, seconds: float) -> None:
        _, process = chance.choice(self._running)
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        process.send_signal(signal.SIGCONT)

    async def end(self, *roles: str) -> None:
        for role, process in list(self._running):
            if role in roles:
                process.kill()
                await process.wait()
                self._running.remove((role, process))

    def died(self) -> list[tuple[str, int]]:
        return [(r, p.returncode) for r, p in self._running if p.returncode is not None]


@asynccontextmanager
async def stream(prefix: str) -> AsyncGenerator[JetStreamContext]:
    """Give access to the broker, and remove in the end what the bus has made there."""
    client = Client()
    await client.connect(plain_url())
    try:
        yield client.jetstream()
    finally:
        manager = client.jsm()
        for info in await manager.streams_info():
            if (info.config.name or "").startswith(prefix):
                await manager.delete_stream(info.config.name or "")
        await client.close()


async def versions_at_the_broker(context: JetStreamContext, prefix: str) -> dict[int, list[int]]:
    """Return the versions of each account as the stream has them, duplicates left out."""
    name = topic(prefix).name
    last = (await context.stream_info(name)).state.last_seq
    subscription = await context.pull_subscribe(f"{name}.>", stream=name)
    found: defaultdict[int, list[int]] = defaultdict(list)
    read = 0
    while read < last:
        for message in await subscription.fetch(200, timeout=60):
            read = message.metadata.sequence.stream
            body = json.loads(message.data)
            if body["number"] not in found[body["account"]]:
                found[body["account"]].append(body["number"])
            await message.ack()
    return found


@pytest.mark.parametrize("seconds", [10.0, pytest.param(40.0, marks=pytest.mark.confidence)])
@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
async def test_every_event_is_handled_once_and_in_order_whoever_dies(
    kind: str, seconds: float, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it when the test fails
    chance = random.Random(seed)
    prefix = f"chaos-{uuid4().hex[:8]}"
    with database(kind, tmp_path) as url:
        engine = create_async_engine(url)
        if kind == "sqlite":
            await enable_wal(engine)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine) as session, session.begin():
            session.add_all([Account(number=number, version=0) for number in range(ACCOUNTS)])

        async with stream(prefix) as context:
            crowd = Crowd(url, plain_url(), prefix)
            try:
                until = time.monotonic() + seconds
                while time.monotonic() < until or not await enough_is_committed(engine):
                    await crowd.fill()
                    await asyncio.sleep(chance.uniform(0.3, 1.5))
                    assert crowd.died() == [], "a process has ended by itself"
                    if chance.random() < 0.3:
                        await crowd.freeze(chance, chance.uniform(0, 1.5 * LEASE))
                    else:
                        await crowd.kill(chance)
                await crowd.end("writer")
                await crowd.fill(but="writer")
                committed = await all_handled(engine)
            finally:
                await crowd.end(*PROCESSES)
            async with engine.connect() as connection:
                rows = (await connection.execute(select(Effect.account, Effect.version))).all()
            at_broker = await versions_at_the_broker(context, prefix)
        await engine.dispose()

    effects = Counter((account, version) for account, version in rows)
    wanted = {(a, v) for a, last in committed.items() for v in range(1, last + 1)}
    assert wanted - effects.keys() == set(), "lost"
    assert effects.keys() - wanted == set(), "of rolled back transactions"
    assert [effect for effect, times in effects.items() if times > 1] == [], "more than once"
    for account, last in committed.items():
        assert at_broker.get(account, []) == list(range(1, last + 1)), f"order of {account}"


async def enough_is_committed(engine: AsyncEngine) -> bool:
    async with engine.connect() as connection:
        versions = await connection.execute(select(func.sum(Account.version)))
        return bool(versions.scalar_one() > 100)


async def all_handled(engine: AsyncEngine) -> dict[int, int]:
    """Wait until there are as many effects as versions; return the last version of each account."""
    async with asyncio.timeout(DEADLINE):
        while True:
            async with engine.connect() as connection:
                accounts = (await connection.execute(select(Account.number, Account.version))).all()
                handled = select(func.count()).select_from(Effect)
                effects = (await connection.execute(handled)).scalar_one()
                left = select(func.count()).select_from(outbox)
                waiting = (await connection.execute(left)).scalar_one()
            committed: dict[int, int] = {row.number: row.version for row in accounts}
            if not waiting and effects >= sum(committed.values()):
                return committed
            await asyncio.sleep(0.1)


async def main(role: str, url: str, bus: str, prefix: str) -> None:
    # Who is frozen in the middle of a write has the others wait, on a busy machine for long.
    timeout = {"timeout": 30} if url.startswith("sqlite") else {}
    engine = create_async_engine(url, connect_args=timeout)
    match role:
        case "writer":
            await write(engine, prefix)
        case "relay":
            await relay(engine, bus, prefix)
        case _:
            await consume(engine, bus, prefix)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
