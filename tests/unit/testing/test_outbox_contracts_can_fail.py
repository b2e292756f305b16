"""Each contract of the outbox fails on a store that breaks it."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import create_async_engine

from events.integration.implementation.sqlalchemy import SQLAlchemyOutboxStore, enable_wal
from events.integration.outbox import (
    PARTITIONS,
    Lease,
    OutboxRow,
    Parked,
    ParkedRow,
    Renewal,
)
from events.integration.outbox._membership import Membership
from events.integration.outbox._order import BestEffort
from events.testing.contracts import outbox, relays
from events.testing.contracts.outbox import OutboxContract
from events.testing.contracts.relays import RelaysContract
from tests.contracts import sqlalchemy_outbox
from tests.contracts.sqlalchemy_outbox import SessionUnit, SQLAlchemyDatabase
from tests.unit.testing.sabotage import collect_what_is_left

TESTS = {
    name: suite
    for suite in (OutboxContract, RelaysContract)
    for name in vars(suite)
    if name.startswith("test_")
}


class Store(SQLAlchemyOutboxStore):
    """What is broken is overridden below."""


class RemovesNothing(Store):
    async def remove(self, ids: Collection[int]) -> None:
        pass


class RemovesTooMuch(Store):
    async def due(
        self, lease: Lease, limit: int, *, after: int | None = None, max_bytes: int | None = None
    ) -> Sequence[OutboxRow]:
        rows = await super().due(lease, limit, after=after, max_bytes=max_bytes)
        await self.remove([row.id for row in rows])
        return rows


class MakesNewIds(Store):
    async def due(
        self, lease: Lease, limit: int, *, after: int | None = None, max_bytes: int | None = None
    ) -> Sequence[OutboxRow]:
        rows = await super().due(lease, limit, after=after, max_bytes=max_bytes)
        return [
            replace(row, message=replace(row.message, id=f"{row.message.id}-{id(row)}"))
            for row in rows
        ]


class Weighless(Store):
    async def due(
        self, lease: Lease, limit: int, *, after: int | None = None, max_bytes: int | None = None
    ) -> Sequence[OutboxRow]:
        return await super().due(lease, limit, after=after)


class PassesOverLateRows(Store):
    last = 0

    async def due(
        self, lease: Lease, limit: int, *, after: int | None = None, max_bytes: int | None = None
    ) -> Sequence[OutboxRow]:
        rows = await super().due(
            lease, limit, after=max(after or 0, self.last), max_bytes=max_bytes
        )
        if rows and lease.relay != "events.testing":
            self.last = rows[-1].id
        return rows


class LosesARow(Store):
    async def due(
        self, lease: Lease, limit: int, *, after: int | None = None, max_bytes: int | None = None
    ) -> Sequence[OutboxRow]:
        rows = await super().due(lease, limit, after=after, max_bytes=max_bytes)
        await self.remove([row.id for row in rows if row.id % 50 == 7])
        return [row for row in rows if row.id % 50 != 7]


class GivesEachAllPartitions(Store):
    async def due(
        self, lease: Lease, limit: int, *, after: int | None = None, max_bytes: int | None = None
    ) -> Sequence[OutboxRow]:
        return await super().due(
            replace(lease, partitions=frozenset(range(PARTITIONS))),
            limit,
            after=after,
            max_bytes=max_bytes,
        )


class EndsEveryLease(Store):
    async def renew(self, decide: Callable[[Sequence[Lease]], Renewal]) -> Renewal:
        def run_out(leases: Sequence[Lease]) -> Renewal:
            return decide([replace(lease, remaining=0.0) for lease in leases])

        return await super().renew(run_out)


class ParksNothing(Store):
    async def park(self, rows: Sequence[Parked]) -> None:
        await self.remove([row.id for row in rows])

    async def parked(self, *, limit: int, after: int | None) -> Sequence[ParkedRow]:
        return []


class BlamesRows(Store):
    async def due(
        self, lease: Lease, limit: int, *, after: int | None = None, max_bytes: int | None = None
    ) -> Sequence[OutboxRow]:
        rows = await super().due(lease, limit, after=after, max_bytes=max_bytes)
        return [replace(row, attempts=row.attempts + 1) for row in rows]


@dataclass
class Saboteur:
    test: str
    store: type[Store] = Store
    arguments: dict[str, Any] = field(default_factory=dict)
    unit: Callable[[SQLAlchemyDatabase], Any] | None = None
    process: str = ""
    patch: tuple[str, str, Any] | None = None
    error: type[Exception] = AssertionError


@asynccontextmanager
async def commits_whatever_happens(database: SQLAlchemyDatabase) -> AsyncGenerator[SessionUnit]:
    unit = database.__class__.unit_of_work(database)
    session = await unit.__aenter__()
    try:
        yield session
    finally:
        await unit.__aexit__(None, None, None)


class NoSavepoints(SessionUnit):
    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[None]:
        yield


@asynccontextmanager
async def without_savepoints(database: SQLAlchemyDatabase) -> AsyncGenerator[SessionUnit]:
    async with database.__class__.unit_of_work(database) as unit:
        yield NoSavepoints(unit.session)


def in_no_order(_name: str) -> BestEffort:
    return BestEffort()


NO_ORDER = ("events.integration.outbox._relay_loop", "order_named", in_no_order)
# Who is broken does not wait for it, so it may outlast what a busy machine takes for the rest.
LONG = ("events.testing.contracts.relays", "LEASE", 60.0)
KILLED = "test_32_a_killed_relay_loses_nothing"
REPEATS = {"step": "removed", "accepted": 10, "left": 0}
LOSES = {"step": "selected", "accepted": 0, "left": 10}

SABOTEURS = [
    Saboteur("test_30_committed_is_sent_once_with_its_id_and_bytes", MakesNewIds),
    Saboteur("test_30_rolled_back_is_no_event", unit=commits_whatever_happens),
    Saboteur("test_30_savepoints_drop_exactly_their_own", unit=without_savepoints),
    Saboteur(
        "test_31_rows_committed_out_of_insertion_order_all_leave",
        PassesOverLateRows,
        error=TimeoutError,
    ),
    Saboteur("test_31_writers_beside_a_relay_lose_nothing", LosesARow),
    Saboteur(KILLED, arguments=REPEATS, process="RemovesNothing"),
    Saboteur(KILLED, arguments=LOSES, process="RemovesTooMuch"),
    Saboteur("test_33_no_row_is_sent_by_two", GivesEachAllPartitions, arguments={"relays": 2}),
    Saboteur(
        "test_33_what_a_dead_relay_held_is_taken_over_after_its_lease", EndsEveryLease, patch=LONG
    ),
    Saboteur(
        "test_33_a_relay_that_was_frozen_past_its_lease_does_not_send", process="TrustsForEver"
    ),
    Saboteur(
        "test_34_a_row_that_cannot_be_sent_is_parked_and_stops_no_other",
        ParksNothing,
        error=TimeoutError,
    ),
    Saboteur("test_35_a_broker_that_was_down_gets_the_backlog", BlamesRows),
    Saboteur("test_36_per_key_keeps_the_order_of_commits_with_several_relays", patch=NO_ORDER),
    Saboteur(
        "test_40_large_bodies_leave_in_batches_that_weigh_no_more_than_they_may",
        Weighless,
        arguments={"order": "best_effort"},
    ),
    Saboteur(
        "test_36_a_failing_row_holds_up_its_key_alone",
        patch=NO_ORDER,
    ),
]


def test_every_contract_has_a_saboteur() -> None:
    assert {saboteur.test for saboteur in SABOTEURS} == set(TESTS)


@pytest.mark.parametrize("saboteur", SABOTEURS, ids=lambda s: f"{s.test}-{s.store.__name__}")
async def test_a_broken_outbox_fails(
    saboteur: Saboteur, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Short only where the contract ends by a timeout: others need their time to fail rightly.
    deadline = 4.0 if saboteur.error is TimeoutError else 60.0
    for contracts in (outbox, relays):
        monkeypatch.setattr(contracts, "DEADLINE", deadline)
    if saboteur.patch is not None:
        module, name, value = saboteur.patch
        monkeypatch.setattr(f"{module}.{name}", value)
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/outbox.db")
    await enable_wal(engine)
    database = SQLAlchemyDatabase(engine)
    await database.create()
    database.store = saboteur.store(engine)
    if saboteur.unit is not None:
        unit = saboteur.unit
        monkeypatch.setattr(database, "unit_of_work", lambda: unit(database))
    if saboteur.process:
        url = database.relay_command[-1]
        database.relay_command = [
            sys.executable,
            "-m",
            "tests.unit.testing.test_outbox_contracts_can_fail",
            saboteur.process,
            url,
        ]
    suite = TESTS[saboteur.test]()
    test = getattr(suite, saboteur.test)
    given = {"database": database, "tmp_path": tmp_path, **saboteur.arguments}
    wanted = inspect.signature(test).parameters
    try:
        with pytest.raises(saboteur.error):
            await test(**{name: given[name] for name in wanted})
    finally:
        await engine.dispose()
        collect_what_is_left()


def main(process: str, url: str, journal: str, step: str) -> None:
    """Run a relay that is broken."""
    if process == "TrustsForEver":
        Membership.sending_time = property(lambda _: 10.0)  # type: ignore[assignment]
    else:
        sqlalchemy_outbox.SQLAlchemyOutboxStore = globals()[process]  # type: ignore[attr-defined]
    asyncio.run(sqlalchemy_outbox.main(url, journal, step))


if __name__ == "__main__":
    main(*sys.argv[1:])
