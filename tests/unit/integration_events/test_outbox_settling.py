"""What becomes of a batch in the table: each row by itself, whatever else fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from events.errors import (
    BusError,
    MessageTooLargeError,
    OutboxError,
    SendRefusedError,
    UnsupportedByBusError,
)
from events.integration.outbox import OutboxRow, Parked, Postponed, _outage, _settling
from events.integration.outbox._forwarding import Outcome
from events.integration.outbox._order import PerKey, RowOrder
from events.integration.outbox._outage import Outage
from events.integration.outbox._settling import Settler
from events.integration.topology import RetryPolicy
from tests.unit.integration_events.outbox_table import START, Table, row

NO = BusError("not this one")
ENOUGH = RetryPolicy(attempts=3, delay=2.0, factor=5.0, jitter=0, max_delay=100.0)


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_outage, "_BACKOFF", RetryPolicy(delay=0.001, factor=1, jitter=0))


class Noted(PerKey):
    """Records what is called for rows."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, list[int], datetime | None]] = []

    def waits(self, row: OutboxRow, until: datetime) -> None:
        self.calls.append(("waits", [row.id], until))

    def over(self, rows: Any) -> None:
        self.calls.append(("over", [row.id for row in rows], None))


class Asked(Table):
    """Notes each write. `unparkable` are rows that cannot be parked, as their ids are there."""

    def __init__(self, *numbers: int) -> None:
        super().__init__(*numbers)
        self.unparkable: set[int] = set()
        self.writes: list[tuple[str, list[int]]] = []

    async def remove(self, ids: Collection[int]) -> None:
        self.writes.append(("remove", list(ids)))
        await super().remove(ids)

    async def park(self, rows: Sequence[Parked]) -> None:
        self.writes.append(("park", [parked.id for parked in rows]))
        if self.unparkable.intersection(parked.id for parked in rows):
            raise LookupError("its id is there already")
        await super().park(rows)

    async def postpone(self, rows: Sequence[Postponed]) -> Sequence[datetime]:
        self.writes.append(("postpone", [postponed.id for postponed in rows]))
        return await super().postpone(rows)

    async def defer(self, ids: Collection[int], until: datetime) -> None:
        self.writes.append(("defer", list(ids)))
        self._maybe_fail("defer")
        await super().defer(ids, until)


def settling(
    table: Table, order: RowOrder | None = None, holds: Callable[[], bool] = lambda: True
) -> Settler:
    return Settler(table, order or Noted(), ENOUGH, Outage("the relay"), holds)


def tried(number: int, attempts: int) -> OutboxRow:
    return replace(row(number, "key"), attempts=attempts)


# --- each fate ------------------------------------------------------------------------------------


async def test_a_batch_with_every_fate() -> None:
    table, order = Asked(*range(1, 8)), Noted()
    refused: list[tuple[OutboxRow, Exception]] = [
        (tried(3, 0), NO),
        (tried(4, 1), NO),
        (tried(5, 2), NO),
        (tried(6, 0), MessageTooLargeError("numbers", "t", 9, 8)),
    ]
    await settling(table, order).settle(Outcome([row(1), row(2)], refused))
    assert sorted(table.rows) == [3, 4, 7]
    assert {n: (p.error, p.delay) for n, p in table.postponed.items()} == {
        3: ("BusError: not this one", 2.0),
        4: ("BusError: not this one", 10.0),
    }
    assert {n: (p.reason, p.attempts) for n, p in table.in_parking.items()} == {
        5: ("retries-exhausted", 3),
        6: ("too-large", 1),
    }
    assert table.writes == [("remove", [1, 2]), ("park", [5, 6]), ("postpone", [3, 4])]
    assert order.calls == [
        ("over", [1, 2], None),
        ("over", [5, 6], None),
        ("waits", [3], START + timedelta(seconds=2)),
        ("waits", [4], START + timedelta(seconds=10)),
    ]


async def test_an_error_that_is_not_retried_is_parked_whatever_its_attempts() -> None:
    table = Asked(1)
    policy = RetryPolicy(dead_letter_on=(UnsupportedByBusError,))
    settler = Settler(table, Noted(), policy, Outage("the relay"), lambda: True)
    await settler.settle(Outcome([], [(row(1), UnsupportedByBusError("bus", "this", "that"))]))
    assert (table.in_parking[1].reason, table.in_parking[1].attempts) == ("unretryable", 1)


async def test_a_group_of_errors_is_judged_by_what_is_in_it() -> None:
    refused = SendRefusedError("bus", "numbers", "it must not")
    too_large = MessageTooLargeError("numbers", "t", 9, 8)
    unwanted = UnsupportedByBusError("bus", "this", "that")
    groups: list[list[Exception]] = [
        [refused, ExceptionGroup("", [unwanted])],
        [too_large],
        [refused, NO],
    ]
    table = Asked(1, 2, 3)
    policy = RetryPolicy(dead_letter_on=(UnsupportedByBusError,))
    settler = Settler(table, Noted(), policy, Outage("the relay"), lambda: True)
    errors = [ExceptionGroup("as of a TaskGroup", group) for group in groups]
    await settler.settle(Outcome([], [(row(n), e) for n, e in enumerate(errors, 1)]))
    reasons = {number: parked.reason for number, parked in table.in_parking.items()}
    assert reasons == {1: "unretryable", 2: "too-large"}
    assert list(table.postponed) == [3]


async def test_nothing_is_written_of_nothing() -> None:
    table, order = Asked(1), Noted()
    await settling(table, order).settle(Outcome([], []))
    await settling(table, order).unreadable([row(1)])
    assert (table.writes, order.calls) == ([], [])


async def test_what_cannot_be_read_is_parked_with_the_attempts_it_had() -> None:
    table, order = Asked(1, 2), Noted()
    await settling(table, order).unreadable([row(1), replace(tried(2, 4), fault=OutboxError("no"))])
    assert list(table.rows) == [1]
    parked = table.in_parking[2]
    assert (parked.reason, parked.error, parked.attempts) == ("unreadable", "OutboxError: no", 4)
    assert order.calls == [("over", [2], None)]


async def test_deferred_rows_reach_the_order_once_they_are_written() -> None:
    table, order = Asked(1, 2), Noted()
    table.broken = {"defer": 2}
    until = START + timedelta(seconds=9)
    await settling(table, order).defer([row(1), row(2)], until)
    assert table.then == {1: 9.0, 2: 9.0}
    assert table.writes == [("defer", [1, 2])] * 3
    assert order.calls == [("waits", [1], until), ("waits", [2], until)]


# --- the lease ------------------------------------------------------------------------------------


async def test_without_the_lease_only_what_was_accepted_is_written() -> None:
    table, order = Asked(*range(1, 6)), Noted()
    settler = settling(table, order, lambda: False)
    table.broken = {"remove": 30}
    await settler.settle(Outcome([row(1)], [(tried(2, 0), NO), (tried(3, 2), NO)]))
    await settler.unreadable([replace(row(4), fault=OutboxError("no"))])
    await settler.defer([row(5)], START)
    assert {verb for verb, _ in table.writes} == {"remove"}
    assert order.calls == [("over", [1], None)]
    assert sorted(table.rows) == [2, 3, 4, 5]


@pytest.mark.parametrize("verb", ["park", "postpone", "defer"])
async def test_the_lease_is_asked_for_before_each_try(verb: str) -> None:
    table, order = Asked(1), Noted()
    holds = iter([True, True, False])
    settler = settling(table, order, lambda: next(holds))
    table.broken = {verb: 100}
    if verb == "defer":
        await settler.defer([row(1)], START)
    else:
        await settler.settle(Outcome([], [(tried(1, 0 if verb == "postpone" else 2), NO)]))
    assert table.writes == [(verb, [1])] * 2
    assert order.calls == []


# --- what cannot be written -----------------------------------------------------------------------


async def test_a_row_that_cannot_be_parked_is_set_aside_and_stops_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table, order = Asked(1, 2, 3), Noted()
    table.unparkable = {2}
    settler = settling(table, order)
    await settler.settle(Outcome([], [(tried(n, 2), NO) for n in (1, 2, 3)]))
    assert sorted(table.in_parking) == [1, 3]
    postponed = table.postponed[2]
    assert postponed.delay == 60
    assert postponed.error == (
        "BusError: not this one; and parking it failed: LookupError: its id is there already"
    )
    assert ("waits", [2], START + timedelta(seconds=60)) in order.calls

    # It is tried once more after its time, alone and only once, and is not logged again.
    table.writes.clear()
    table.add(row(4))
    await settler.settle(Outcome([], [(tried(2, 3), NO), (tried(4, 2), NO)]))
    assert table.writes == [("park", [4]), ("park", [2]), ("postpone", [2])]
    said = [r for r in caplog.records if "nor parked" in r.getMessage()]
    assert len(said) == 1
    assert said[0].levelname == "ERROR"
    assert said[0].__dict__["event_id"] == "2"

    # Until it can be parked.
    table.unparkable.clear()
    await settler.settle(Outcome([], [(tried(2, 4), NO)]))
    assert sorted(table.in_parking) == [1, 2, 3, 4]
    assert order.calls[-1] == ("over", [2], None)


async def test_a_row_that_was_set_aside_is_parked_under_the_lease_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table, order = Asked(1), Noted()
    table.unparkable = {1}
    holds = [True]
    settler = settling(table, order, lambda: holds[0])
    await settler.settle(Outcome([], [(tried(1, 2), NO)]))
    holds[0] = False
    table.writes.clear()
    await settler.settle(Outcome([], [(tried(1, 3), NO)]))
    assert table.writes == []

    # Lost while it is parked, it is not set aside, and not said to be.
    caplog.clear()
    answers = iter([True] * (_settling._TRIES + 1))
    settler = settling(table, order, lambda: next(answers, False))
    await settler.settle(Outcome([], [(tried(1, 2), NO)]))
    assert table.writes == [("park", [1])] * (_settling._TRIES + 1)
    assert "nor parked" not in caplog.text


async def test_a_row_that_was_set_aside_and_then_sent_begins_again() -> None:
    table = Asked(1, 2)
    table.unparkable = {1}
    settler = settling(table)
    await settler.settle(Outcome([], [(tried(1, 2), NO)]))
    await settler.settle(Outcome([row(1)], []))
    table.add(row(1))
    table.unparkable.clear()
    table.writes.clear()
    await settler.settle(Outcome([], [(tried(1, 2), NO), (tried(2, 2), NO)]))
    assert table.writes == [("park", [1, 2])]


async def test_a_database_that_takes_neither_is_an_outage_and_leaves_rows_as_they_were() -> None:
    table, order = Asked(1, 2), Noted()
    table.unparkable = {1, 2}
    table.broken = {"postpone": 1_000}
    settler = settling(table, order)
    with pytest.raises(LookupError, match="cannot postpone"):
        await settler.settle(Outcome([], [(tried(1, 2), NO), (tried(2, 2), NO)]))
    assert table.postponed == {}
    assert order.calls == []
    assert len(table.writes) < 20


async def test_what_was_accepted_is_removed_however_often_it_fails() -> None:
    table = Asked(1)
    table.broken = {"remove": 100}
    await settling(table).settle(Outcome([row(1)], []))
    assert table.rows == {}


async def test_a_refusal_is_reported_with_the_fields_of_its_event(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "events.integration")
    table = Asked(1, 2)
    message = replace(row(1).message, headers={"ce-correlationid": "the%20first"})
    one = OutboxRow(1, message, attempts=1)
    await settling(table).settle(Outcome([], [(one, NO), (tried(2, 2), NO)]))
    postponed, parked = sorted(caplog.records, key=lambda record: record.levelno)
    fields = ("topic", "event_type", "event_id", "correlation_id", "attempt")
    assert [postponed.__dict__[field] for field in fields] == [
        "numbers", "test.relay.numbered", "1", "the first", 2,
    ]  # fmt: skip
    assert [parked.__dict__[field] for field in fields] == [
        "numbers", "test.relay.numbered", "2", "2", 3,
    ]  # fmt: skip
