"""The bus on a database when processes die at each step, and when events kill them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from events.integration import IntegrationEventBusRegistration, Topic
from events.integration.implementation.sqlalchemy import (
    SQLAlchemyIntegrationEventBus,
    bus_table,
    enable_wal,
)
from events.integration.implementation.sqlalchemy._bus.rows import Rows
from events.integration.implementation.sqlalchemy._members import Members
from events.testing import eventually
from events.testing.contracts import Numbered, Probe
from tests.databases.bus_worker import CONCURRENCY, EFFECTS
from tests.databases.database import new_database
from tests.servers import end

ROOT = Path(__file__).parents[2]
TIMEOUT = 120.0
DATABASES = ["sqlite+aiosqlite", "postgresql+asyncpg", "mariadb+asyncmy"]
TOPIC = "faults"
EVENTS = 30


@dataclass
class Place:
    """A database with the tables of the bus, and the journal of its workers."""

    engine: AsyncEngine
    metadata: MetaData
    journal: Path

    async def filled(self, count: int) -> None:
        """Make the consumer known, and send events to it while it is not there."""
        bus = SQLAlchemyIntegrationEventBus(self.engine)
        registration = IntegrationEventBusRegistration(
            Probe(f"{TOPIC}-worker"), Topic(TOPIC), [Numbered]
        )
        async with bus:
            await bus.register(registration)
            await bus.unregister(registration)
            await bus.send_many(Topic(TOPIC), map(Numbered, range(count)))

    async def count(self, table: str) -> int:
        query = select(func.count()).select_from(self.metadata.tables[table])
        async with self.engine.connect() as connection:
            return (await connection.execute(query)).scalar_one()

    def lines(self, word: str) -> Counter[int]:
        """Count how often each event was begun, or handled."""
        text = self.journal.read_text() if self.journal.exists() else ""
        found = (line.split() for line in text.splitlines())
        return Counter(int(number) for what, number in found if what == word)

    @contextmanager
    def worker(self, **options: Any) -> Generator[subprocess.Popen[bytes]]:
        environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
        url = self.engine.url.render_as_string(hide_password=False)
        options |= {"database": url, "topic": TOPIC, "journal": str(self.journal)}
        command = [sys.executable, "-m", "tests.databases.bus_worker", json.dumps(options)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment)
        try:
            yield process
        finally:
            end(process)

    async def killed(self, **options: Any) -> None:
        """Have a worker kill itself."""
        with self.worker(**options) as process:
            assert await asyncio.to_thread(process.wait, TIMEOUT) == -signal.SIGKILL


@pytest.fixture(params=DATABASES)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Place]:
    driver: str = request.param
    with ExitStack() as stack:
        url: Any = f"{driver}:///{tmp_path}/bus.db"
        if not driver.startswith("sqlite"):
            made = stack.enter_context(new_database(driver.partition("+")[0]))
            url = made.url(driver)
        engine = create_async_engine(url)
        if driver.startswith("sqlite"):
            await enable_wal(engine)
        metadata = MetaData()
        bus_table(metadata)
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
            await connection.run_sync(EFFECTS.metadata.create_all)
        yield Place(engine, metadata, tmp_path / "journal")
        await engine.dispose()


@pytest.mark.parametrize(
    ("step", "begun_again", "handled_again"),
    [
        ("read", 0, 0),
        ("handling", CONCURRENCY, CONCURRENCY),
        ("handled", CONCURRENCY, CONCURRENCY),
        ("removed", CONCURRENCY, CONCURRENCY),
    ],
)
async def test_22_a_consumer_killed_at_a_step_loses_nothing(
    place: Place, step: str, begun_again: int, handled_again: int
) -> None:
    await place.filled(EVENTS)
    await place.killed(dies=step, number=7)
    with place.worker():
        await eventually(lambda: set(place.lines("handled")) == set(range(EVENTS)), TIMEOUT)

        async def is_empty() -> bool:
            return await place.count("bus") == 0

        await eventually(is_empty, TIMEOUT)
    begun, handled = place.lines("begun"), place.lines("handled")
    assert sum(begun.values()) - EVENTS <= begun_again + handled_again, begun
    assert sum(handled.values()) - EVENTS <= handled_again, handled
    assert await place.count("bus_dead_letters") == 0


@pytest.mark.parametrize("step", ["handling", "handled"])
async def test_28_what_a_handler_writes_happens_once_however_it_is_killed(
    place: Place, step: str
) -> None:
    await place.filled(EVENTS)
    await place.killed(dies=step, number=7, writes=True)
    with place.worker(writes=True):

        async def is_empty() -> bool:
            return await place.count("bus") == 0

        await eventually(is_empty, TIMEOUT)
    async with place.engine.connect() as connection:
        written = (await connection.execute(select(EFFECTS.c.number))).scalars().all()
    assert sorted(written) == list(range(EVENTS))


@pytest.mark.parametrize(
    ("options", "deaths"),
    [
        ({"attempts": 2}, 4),  # two deaths mean nothing, the others are attempts
        ({"attempts": 10, "max_crashes": 3}, 3),
    ],
)
async def test_27_an_event_that_kills_its_process_ends_as_a_dead_letter(
    place: Place, options: dict[str, int], deaths: int
) -> None:
    await place.filled(EVENTS)
    for _ in range(deaths):
        await place.killed(dies="handling", number=7, **options)
    with place.worker(dies="handling", number=7, **options) as last:
        await eventually(lambda: len(place.lines("handled")) == EVENTS - 1, TIMEOUT)

        async def is_empty() -> bool:
            return await place.count("bus") == 0

        await eventually(is_empty, TIMEOUT)
        assert last.poll() is None
    assert place.lines("begun")[7] == deaths
    assert await place.count("bus_dead_letters") == 1
    bus = SQLAlchemyIntegrationEventBus(place.engine)
    async with bus:
        [letter] = await bus.dead_letters(f"{TOPIC}-worker")
        assert (letter.reason, letter.attempts) == ("crashed", deaths)


@pytest.mark.parametrize("lost", ["the takeover", "the mark"])
async def test_a_crash_is_counted_once_though_an_answer_is_lost(
    place: Place, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.filled(EVENTS)
    await place.killed(dies="handling", number=7)
    change, mark, losses = Members.change, Rows.mark, list[str]()

    def lose(what: str) -> None:
        if what == lost and not losses:
            losses.append(what)
            raise TimeoutError("the answer is lost")

    async def changed(members: Members, decide: Any) -> Any:
        taken = await change(members, decide)
        if any(held.taken for held in taken.held.values()):
            lose("the takeover")
        return taken

    async def marked(rows: Rows, *args: int) -> None:
        await mark(rows, *args)
        lose("the mark")

    monkeypatch.setattr(Members, "change", changed)
    monkeypatch.setattr(Rows, "mark", marked)
    probe = Probe(f"{TOPIC}-worker")
    registration = IntegrationEventBusRegistration(probe, Topic(TOPIC), [Numbered])

    async def is_empty() -> bool:
        return await place.count("bus") == 0

    async with SQLAlchemyIntegrationEventBus(place.engine, [registration]):
        await eventually(is_empty, TIMEOUT)
    assert losses == [lost]
    crashes = {arrival.event.number: arrival.delivery.crashes for arrival in probe.arrivals}
    assert crashes[7] == 1
    assert set(crashes.values()) <= {0, 1}
