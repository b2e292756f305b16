"""Each contract of schedules and recurrences fails where they are broken."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from events.errors import ScheduleIdTakenError
from events.integration.implementation.sqlalchemy import (
    SQLAlchemyOutboxStore,
    enable_wal,
    outbox,
)
from events.integration.implementation.sqlalchemy._calendar import Calendar
from events.integration.implementation.sqlalchemy._schedules import Schedules
from events.integration.outbox.recurring import Due, Recurring
from events.testing.contracts import _scheduling, recurring, schedules
from events.testing.contracts._scheduling import OutboxPlace
from events.testing.contracts.recurring import RecurringContract
from events.testing.contracts.schedules import SchedulesContract
from tests.contracts.sqlalchemy_outbox import SQLAlchemyDatabase
from tests.unit.testing.sabotage import collect_what_is_left
from tests.unit.testing.test_outbox_contracts_can_fail import (
    LosesARow,
    commits_whatever_happens,
)

TESTS = {
    name: suite
    for suite in (SchedulesContract, RecurringContract)
    for name in vars(suite)
    if name.startswith("test_")
}
put, scheduled, recur = Schedules.put, Schedules.scheduled, Calendar.recur


async def loses_the_key(self: Schedules, id_: str, row: Any, *, replace: bool) -> None:
    await put(self, id_, {**row, "key": None}, replace=replace)


async def always_replaces(self: Schedules, id_: str, row: Any, *, replace: bool) -> None:
    await put(self, id_, row, replace=True)


async def never_replaces(self: Schedules, id_: str, row: Any, *, replace: bool) -> None:
    await put(self, id_, row, replace=False)


async def says_yes(*_: object) -> bool:
    return True


def accepts_anything(*_: object, **__: object) -> None:
    pass


async def lists_nothing(*_: object, **__: object) -> list[Any]:
    return []


async def lists_whatever_begins(self: Schedules, **conditions: Any) -> list[Any]:
    everything: dict[str, Any] = {**conditions, "prefix": None}
    return await scheduled(self, **everything)


async def moves_nothing(*_: object) -> int:
    return 0


async def began_long_ago(*_: object) -> datetime:
    return datetime(2020, 1, 1, tzinfo=UTC)


async def forgets_what_was_put(
    self: Calendar, name: str, since: datetime, until: datetime, messages: Sequence[Any]
) -> bool:
    done = await recur(self, name, since, until, messages)
    if messages:
        await recur(self, name, until, since, [])
    return done


def puts_all_that_was_missed(self: Recurring, since: datetime, now: datetime) -> Due | None:
    found = self._between(since, now)
    return Due(found[-1], tuple(found)) if found else None


@dataclass
class Saboteur:
    test: str
    patch: tuple[object, str, Callable[..., Any]] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    error: type[BaseException] = AssertionError
    store: type[SQLAlchemyOutboxStore] = SQLAlchemyOutboxStore


NO_CANCELLING = (Schedules, "cancel", says_yes)
REPLACING = (Schedules, "put", always_replaces)
FORGETTING = (Calendar, "recur", forgets_what_was_put)
SABOTEURS = [
    Saboteur(
        "test_is_sent_at_its_time_as_it_was_put",
        (Schedules, "put", loses_the_key),
    ),
    Saboteur(
        "test_a_time_that_comes_while_relays_run_is_kept",
        (Calendar, "release", moves_nothing),
    ),
    Saboteur("test_what_is_rolled_back_was_not_scheduled", error=ScheduleIdTakenError),
    Saboteur("test_cancelled_is_never_sent", NO_CANCELLING),
    Saboteur(
        "test_put_and_cancelled_in_one_transaction",
        (Schedules, "scheduled", lists_nothing),
    ),
    Saboteur("test_cancelled_and_rolled_back_is_sent"),
    Saboteur("test_no_cancelling_of_what_a_relay_is_sending", NO_CANCELLING),
    Saboteur("test_a_relay_passes_over_what_is_being_cancelled", NO_CANCELLING),
    Saboteur(
        "test_after_a_relay_was_killed_it_is_sent_and_cannot_be_cancelled",
        NO_CANCELLING,
        {"step": "released"},
    ),
    Saboteur("test_of_many_who_cancel_and_release_one_alone_succeeds", NO_CANCELLING),
    Saboteur(
        "test_one_id_twice_is_an_error_that_ends_no_transaction",
        REPLACING,
        error=pytest.fail.Exception,
    ),
    Saboteur(
        "test_the_new_one_takes_the_place_of_the_other_if_asked",
        (Schedules, "put", never_replaces),
        error=ScheduleIdTakenError,
    ),
    Saboteur("test_of_two_sessions_that_race_for_an_id_one_has_it", REPLACING),
    Saboteur(
        "test_rescheduled_is_sent_at_the_other_time",
        (Schedules, "reschedule", says_yes),
    ),
    Saboteur(
        "test_lists_what_waits_by_conditions_and_pages",
        (Schedules, "scheduled", lists_whatever_begins),
    ),
    Saboteur(
        "test_what_cannot_be_is_refused",
        (outbox, "check_schedule", accepts_anything),
        {"options": {"available_at": schedules.LATER, "schedule_id": "x "}, "reason": "blanks"},
        pytest.fail.Exception,
    ),
    Saboteur(
        "test_begins_with_the_next_after_it_was_first_seen",
        (Calendar, "recurred", began_long_ago),
    ),
    Saboteur("test_any_number_of_relays_put_each_occurrence_once", FORGETTING),
    Saboteur("test_what_was_put_is_not_put_again_by_the_next_relay", FORGETTING),
    Saboteur(
        "test_of_what_was_missed_it_puts_none_or_the_newest",
        (Recurring, "due", puts_all_that_was_missed),
        {"missed": "one", "count": 1},
    ),
    Saboteur(
        "test_a_killed_relay_loses_no_occurrence_and_puts_none_twice",
        arguments={"step": "released"},
        store=LosesARow,
    ),
    Saboteur(
        "test_of_two_that_put_the_same_one_is_refused",
        (Calendar, "recur", says_yes),
    ),
]


def test_every_contract_has_a_saboteur() -> None:
    assert {saboteur.test for saboteur in SABOTEURS} == set(TESTS)


@pytest.mark.parametrize("saboteur", SABOTEURS, ids=lambda each: each.test)
async def test_broken_schedules_fail(
    saboteur: Saboteur, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Short only where the contract ends by it: others need their time to fail rightly.
    deadline = 10.0 if saboteur.test == "test_a_time_that_comes_while_relays_run_is_kept" else 60.0
    for contracts in (_scheduling, recurring, schedules):
        monkeypatch.setattr(contracts, "DEADLINE", deadline)
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/outbox.db")
    await enable_wal(engine)
    database = SQLAlchemyDatabase(engine)
    await database.create()
    database.store = saboteur.store(engine)
    if saboteur.patch is not None:
        monkeypatch.setattr(*saboteur.patch)
    elif saboteur.store is SQLAlchemyOutboxStore:
        monkeypatch.setattr(database, "unit_of_work", lambda: commits_whatever_happens(database))
    suite = TESTS[saboteur.test]()
    test = getattr(suite, saboteur.test)
    given = {"place": OutboxPlace(database), "tmp_path": tmp_path, **saboteur.arguments}
    try:
        with pytest.raises(saboteur.error):
            await test(**{name: given[name] for name in inspect.signature(test).parameters})
    finally:
        await engine.dispose()
        collect_what_is_left()
