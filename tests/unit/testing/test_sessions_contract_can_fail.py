"""Each property of `SessionsContract` is shown to fail where rows go another way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncSession

from events.integration import Topic
from events.integration.implementation.sqlalchemy import SQLAlchemyOutbox, _buffer, _claim
from events.testing.contracts.sessions import SessionsContract
from tests.contracts.sqlalchemy_sessions import Effect, Kind, RoutedAsDocumented, Unit, through

Sabotage = Callable[[pytest.MonkeyPatch], None]


def goes_where_reads_go(patch: pytest.MonkeyPatch) -> None:
    def connection(session: Any, statement: Any) -> Any:
        return session.connection(bind_arguments={"clause": statement.table})

    patch.setattr(_buffer, "writing_connection", connection)
    patch.setattr(_claim, "writing_connection", connection)


def commits_by_itself(patch: pytest.MonkeyPatch) -> None:
    async def put(unit: Unit, event: Any) -> None:
        async with AsyncSession(unit.writer) as other, other.begin():
            await SQLAlchemyOutbox(other).put(Topic("elsewhere"), event)

    patch.setattr(Unit, "put", put)


def commits_at_once(patch: pytest.MonkeyPatch) -> None:
    async def write(unit: Unit, effect: int) -> None:
        unit.session.add(Effect(number=effect))
        await unit.session.commit()

    patch.setattr(Unit, "write", write)


ROUTED = RoutedAsDocumented
TESTS = SessionsContract
CASES: list[tuple[Sabotage, type[Kind], Callable[..., Awaitable[None]]]] = [
    (goes_where_reads_go, ROUTED, TESTS.test_42_effects_and_events_are_committed_together),
    (commits_at_once, Kind, TESTS.test_42_a_commit_that_fails_leaves_no_event),
    (
        commits_at_once,
        Kind,
        TESTS.test_42_an_event_that_is_put_after_the_effects_goes_with_them,
    ),
    (goes_where_reads_go, ROUTED, TESTS.test_42_effects_and_the_inbox_are_committed_together),
    (
        goes_where_reads_go,
        ROUTED,
        TESTS.test_42_a_handling_that_cannot_be_committed_leaves_no_row,
    ),
    (commits_by_itself, Kind, TESTS.test_42_effects_and_events_are_rolled_back_together),
    (commits_by_itself, Kind, TESTS.test_42_of_two_sessions_each_writes_its_own),
]


@pytest.mark.parametrize(
    ("sabotage", "kind", "test"),
    CASES,
    ids=[f"{case[0].__name__}-{case[2].__name__}" for case in CASES],
)
async def test_rows_that_go_another_way_are_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sabotage: Sabotage,
    kind: type[Kind],
    test: Callable[..., Awaitable[None]],
) -> None:
    monkeypatch.setattr(_buffer, "engines_of_flush", lambda _: set())
    monkeypatch.setattr(_claim, "engines_of_flush", lambda _: set())
    sabotage(monkeypatch)
    url = make_url(f"sqlite+aiosqlite:///{tmp_path}/sessions.db").set(query={"timeout": "0"})
    async with through(kind, url) as database:
        with pytest.raises(Exception):  # noqa: B017, PT011 - or the database's, as it is locked
            await test(SessionsContract(), database)


@pytest.mark.parametrize("kind", [Kind, ROUTED])
@pytest.mark.parametrize("test", sorted({case[2].__name__ for case in CASES}))
async def test_without_sabotage_they_hold(tmp_path: Path, kind: type[Kind], test: str) -> None:
    async with through(kind, make_url(f"sqlite+aiosqlite:///{tmp_path}/sessions.db")) as database:
        await getattr(SessionsContract(), test)(database)


def test_every_property_has_a_saboteur() -> None:
    tests = {name for name in vars(SessionsContract) if name.startswith("test_")}
    assert tests == {case[2].__name__ for case in CASES}
