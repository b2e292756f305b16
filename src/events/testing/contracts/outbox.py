"""What an outbox must show on every database: conformance 30 to 32.

A test file gives the fixture `database`; what the suite needs of it is an `OutboxDatabase`. It
starts empty, with its table made.
"""
# ruff: noqa: D102 - a test's name is its documentation

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import pytest
from msgspec.structs import replace

from events.integration.bus import IntegrationEventBus
from events.integration.event import IntegrationEvent
from events.integration.message import Message
from events.integration.outbox import (
    PARTITIONS,
    Lease,
    Outbox,
    OutboxRelay,
    OutboxRow,
    OutboxStore,
    Renewal,
)
from events.integration.outbox.partitions import renew
from events.integration.topology import Topic

__all__ = [
    "Counted",
    "ForwardedBus",
    "JournalBus",
    "OutboxContract",
    "OutboxDatabase",
    "UnitOfWork",
    "frozen_at",
    "pending",
    "relay_and_die",
    "relay_process",
    "undone",
]

T = TypeVar("T")

TOPIC = Topic("outbox-contract")
DEADLINE = 120.0
LEASE = 1.0  # of what dies
LONG_LEASE = 15.0  # outlasts what a loaded machine makes a transaction wait
ALL = 10_000


class UnitOfWork(Protocol):
    """A transaction of the user's, and its outbox."""

    @property
    def outbox(self) -> Outbox:
        """Return the outbox of this transaction."""
        ...

    def savepoint(self) -> AbstractAsyncContextManager[object]:
        """Open a savepoint: released at the exit, rolled back to if the body raises."""
        ...


class OutboxDatabase(Protocol):
    """A database with an outbox, as this suite uses it."""

    @property
    def store(self) -> OutboxStore:
        """Return the relay's side of it."""
        ...

    @property
    def relay_command(self) -> Sequence[str]:
        """Return a command that calls `relay_and_die(store, *arguments)` in a new process."""
        ...

    def unit_of_work(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """Begin a transaction: committed at the exit, rolled back if the body raises."""
        ...

    async def insert(self, row: OutboxRow) -> None:
        """Commit a row with the id that it says."""
        ...


@dataclass(frozen=True)
class Counted(IntegrationEvent):
    """An event that its number distinguishes from others."""

    type = "events.testing.counted"
    version = 1
    number: int
    text: str = "Grüße, 世界"


class ForwardedBus(IntegrationEventBus):
    """A bus that keeps what relays forward to it."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Message] = []

    async def forward(self, messages: Sequence[Message]) -> Sequence[None]:
        """Take them all."""
        self.messages += messages
        return [None] * len(messages)

    async def send(self, topic: Topic, event: IntegrationEvent) -> None:
        """Refuse: a relay forwards."""
        raise NotImplementedError

    @property
    def numbers(self) -> list[int]:
        """Return the numbers of the events, in the order of their arrival."""
        return [json.loads(message.body)["number"] for message in self.messages]


class JournalBus(ForwardedBus):
    """A bus whose broker is a file, which holds the ids of what it accepted."""

    def __init__(self, journal: Path, *, die_after: int | None = None) -> None:
        super().__init__()
        self._journal = journal
        self._die_after = die_after

    async def forward(self, messages: Sequence[Message]) -> Sequence[None]:
        """Write the ids down, each for good before the next."""
        with self._journal.open("a") as file:
            for position, message in enumerate(messages):
                if position == self._die_after:
                    _die()
                file.write(f"{message.id}\n")
                file.flush()
                os.fsync(file.fileno())
        return await super().forward(messages)


async def pending(store: OutboxStore) -> Sequence[OutboxRow]:
    """Return the rows that are due, whatever their partitions, and change nothing."""

    def look(leases: Sequence[Lease]) -> Renewal:
        # Rows are read on condition that a lease is there; that of a relay will do.
        if leases:
            return Renewal(own=leases[0], ended=(), written=(), share=0)
        return renew(leases, Lease("events.testing", uuid4().hex, frozenset(), DEADLINE, 0.0))

    own = (await store.renew(look)).own
    try:
        return await store.due(replace(own, partitions=frozenset(range(PARTITIONS))), ALL)
    finally:
        if own.relay == "events.testing":
            await store.leave(own)


async def relay_and_die(store: OutboxStore, journal: str, step: str) -> None:
    """Relay into a journal until the outbox is empty, or die by SIGKILL where the step says.

    "sending" is in the middle of a batch; the others are the relay's own steps. With "frozen" it
    stops itself by SIGSTOP once it has rows in its hand. With "recurring:" before the step the
    relay has the recurrence of `RecurringContract`.
    """
    kind, _, step = step.rpartition(":")
    options: dict[str, Any] = {}
    if kind:  # needs an extra
        recurring = import_module("events.testing.contracts.recurring")
        options["recurring"] = [recurring.every_minute()]

    def on_step(done: str) -> None:
        # A relay whose lease was over before it could send ends the step all the same.
        is_idle = done in {"sent", "removed"} and not bus.messages
        if done == step and not is_idle:
            _die()
        if (done, step) == ("selected", "frozen") and not frozen_at(Path(journal)).exists():
            frozen_at(Path(journal)).touch()
            os.kill(os.getpid(), signal.SIGSTOP)

    bus = JournalBus(Path(journal), die_after=5 if step == "sending" else None)
    lease = LONG_LEASE if step == "none" else LEASE
    async with OutboxRelay(store, bus, lease=lease, on_step=on_step, **options) as relay:
        await relay.drain()


def frozen_at(journal: Path) -> Path:
    """Return the file that says that the relay of this journal has stopped itself."""
    return journal.with_suffix(".frozen")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class _GoBack(Exception):  # noqa: N818 - no error: how the suite leaves a transaction
    """Raised to have a transaction or a savepoint rolled back."""


@asynccontextmanager
async def undone(transaction: AbstractAsyncContextManager[T]) -> AsyncGenerator[T]:
    """Leave a transaction, or a savepoint, by a rollback."""
    with suppress(_GoBack):
        async with transaction as value:
            yield value
            raise _GoBack


class OutboxContract:
    """Yield the fixture `database`."""

    @pytest.fixture
    def database(self) -> OutboxDatabase:
        """Return a database whose outbox is empty."""
        raise NotImplementedError

    # --- 30: in the transaction, or not at all ------------------------------------------------

    async def test_30_committed_is_sent_once_with_its_id_and_bytes(
        self, database: OutboxDatabase
    ) -> None:
        async with database.unit_of_work() as unit:
            await unit.outbox.put(TOPIC, Counted(1), key="Ключ", headers={"tenant": "ä"})
        (row,) = await pending(database.store)
        bus = await _relayed(database)
        assert bus.messages == [row.message]
        message = bus.messages[0]
        assert (message.topic, message.type, message.key) == (TOPIC.name, Counted.type, "Ключ")
        assert message.headers["ce-id"] == message.id
        assert message.headers["tenant"] == "ä"
        assert IntegrationEvent.from_dict(json.loads(message.body)) == Counted(1)
        assert await pending(database.store) == []

    async def test_30_rolled_back_is_no_event(self, database: OutboxDatabase) -> None:
        async with undone(database.unit_of_work()) as unit:
            await unit.outbox.put(TOPIC, Counted(1))
        async with database.unit_of_work() as unit:
            await unit.outbox.put(TOPIC, Counted(2))
        assert (await _relayed(database)).numbers == [2]

    async def test_30_savepoints_drop_exactly_their_own(self, database: OutboxDatabase) -> None:
        async with database.unit_of_work() as unit:
            await unit.outbox.put(TOPIC, Counted(1))
            async with unit.savepoint():
                await unit.outbox.put(TOPIC, Counted(2))
                async with undone(unit.savepoint()):
                    await unit.outbox.put(TOPIC, Counted(3))
                await unit.outbox.put(TOPIC, Counted(4))
            async with undone(unit.savepoint()):
                await unit.outbox.put(TOPIC, Counted(5))
                async with unit.savepoint():
                    await unit.outbox.put(TOPIC, Counted(6))
            await unit.outbox.put(TOPIC, Counted(7))
        assert (await _relayed(database)).numbers == [1, 2, 4, 7]

    # --- 31: whatever the order of their ids --------------------------------------------------

    async def test_31_rows_committed_out_of_insertion_order_all_leave(
        self, database: OutboxDatabase
    ) -> None:
        async with database.unit_of_work() as unit:
            for number in range(3):
                await unit.outbox.put(TOPIC, Counted(number))
        rows = await pending(database.store)
        await database.store.remove([row.id for row in rows])

        bus = ForwardedBus()
        async with OutboxRelay(database.store, bus) as relay:
            # The sequence gave these ids in order; their transactions ended in another.
            for number in (2, 0, 1):
                await database.insert(rows[number])
                async with asyncio.timeout(DEADLINE):
                    await relay.drain()
        assert bus.numbers == [2, 0, 1]

    async def test_31_writers_beside_a_relay_lose_nothing(self, database: OutboxDatabase) -> None:
        writers, commits, each = 4, 25, 4

        async def write(writer: int) -> None:
            for commit in range(commits):
                async with database.unit_of_work() as unit:
                    for position in range(each):
                        number = (writer * commits + commit) * each + position
                        await unit.outbox.put(TOPIC, Counted(number))

        bus = ForwardedBus()
        async with OutboxRelay(database.store, bus, batch=10) as relay:
            await asyncio.gather(*map(write, range(writers)))
            async with asyncio.timeout(DEADLINE):
                await relay.drain()
        assert sorted(bus.numbers) == list(range(writers * commits * each))
        assert await pending(database.store) == []

    # --- 32: killed anywhere ------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("step", "accepted", "left"),
        [
            ("renewed", 0, 10),
            ("selected", 0, 10),
            ("sending", 5, 10),
            ("sent", 10, 10),
            ("removed", 10, 0),
        ],
    )
    async def test_32_a_killed_relay_loses_nothing(
        self, database: OutboxDatabase, tmp_path: Path, step: str, accepted: int, left: int
    ) -> None:
        async with database.unit_of_work() as unit:
            for number in range(10):
                await unit.outbox.put(TOPIC, Counted(number))
        ids = [row.message.id for row in await pending(database.store)]
        journal = tmp_path / "accepted"

        assert await _killed(database, journal, step) == -signal.SIGKILL
        before = _read(journal)
        assert before == ids[:accepted]
        assert len(await pending(database.store)) == left

        assert await _killed(database, journal, "none") == 0
        times = Counter(_read(journal))
        assert list(times) == ids, "lost, or sent with another id"
        assert [id_ for id_ in ids if times[id_] > 1] == (before if left else [])
        assert await pending(database.store) == []


async def _relayed(database: OutboxDatabase) -> ForwardedBus:
    bus = ForwardedBus()
    async with OutboxRelay(database.store, bus) as relay, asyncio.timeout(DEADLINE):
        await relay.drain()
    return bus


async def _killed(database: OutboxDatabase, journal: Path, step: str) -> int:
    async with relay_process(database, journal, step) as process, asyncio.timeout(DEADLINE):
        return await process.wait()


@asynccontextmanager
async def relay_process(
    database: OutboxDatabase, journal: Path, step: str
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Start a process that calls `relay_and_die`, and see that it has ended in the end."""
    process = await asyncio.create_subprocess_exec(*database.relay_command, str(journal), step)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _read(journal: Path) -> list[str]:
    return journal.read_text().split() if journal.exists() else []
