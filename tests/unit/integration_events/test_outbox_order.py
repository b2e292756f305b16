"""In which waves rows leave, and which wait for others of their key."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.errors import BusError, BusUnavailableError
from events.integration.message import Message
from events.integration.outbox import OutboxRow
from events.integration.outbox._forwarding import forward_in_waves
from events.integration.outbox._order import BestEffort, PerKey, Plan, order_named
from tests.unit.integration_events.outbox_table import START, row

LATER = START + timedelta(seconds=10)
LATEST = START + timedelta(seconds=20)


def numbers(plan: Plan) -> list[list[int]]:
    return [[row.id for row in wave] for wave in plan.waves]


def deferred(plan: Plan) -> dict[object, list[int]]:
    return {until: [row.id for row in rows] for until, rows in plan.deferred.items()}


def rows(*keys: str | None) -> list[OutboxRow]:
    return [row(number, key) for number, key in enumerate(keys, start=1)]


def test_orders_have_names() -> None:
    assert isinstance(order_named("best_effort"), BestEffort)
    assert isinstance(order_named("per_key"), PerKey)
    with pytest.raises(ValueError, match="order must be 'best_effort' or 'per_key', not 'fifo'"):
        order_named("fifo")  # type: ignore[arg-type]


def test_best_effort_is_one_wave() -> None:
    order = BestEffort()
    order.waits(row(1, "a"), LATER)
    assert numbers(order.plan(rows("a", "a", None))) == [[1, 2, 3]]


def test_per_key_sends_one_of_each_key_at_a_time() -> None:
    plan = PerKey().plan(rows("a", "b", "a", None, None, "a", "b"))
    assert numbers(plan) == [[1, 2, 4, 5], [3, 7], [6]]


def test_rows_behind_a_waiting_one_wait_until_its_time() -> None:
    order = PerKey()
    order.waits(row(1, "a"), LATER)
    plan = order.plan([row(2, "a"), row(3, "b"), row(4, None)])
    assert numbers(plan) == [[3, 4]]
    assert deferred(plan) == {LATER: [2]}


def test_the_waiting_row_leaves_first_and_the_others_behind_it() -> None:
    order = PerKey()
    order.waits(row(1, "a"), LATER)
    order.waits(row(2, "a"), LATER)
    assert numbers(order.plan([row(1, "a"), row(2, "a"), row(3, "a")])) == [[1], [2], [3]]


def test_a_row_does_not_overtake_one_that_was_deferred() -> None:
    order = PerKey()
    order.waits(row(1, "a"), LATER)
    order.waits(row(2, "a"), LATER)
    order.over([row(1, "a")])
    assert deferred(order.plan([row(3, "a")])) == {LATER: [3]}
    order.over([row(2, "a")])
    assert numbers(order.plan([row(3, "a")])) == [[3]]


def test_earlier_rows_do_not_wait_for_later_ones() -> None:
    order = PerKey()
    order.waits(row(5, "a"), LATER)
    assert numbers(order.plan([row(4, "a")])) == [[4]]


def test_what_the_table_says_takes_the_place_of_what_was_known() -> None:
    order = PerKey()
    order.waits(row(1, "a"), LATER)
    order.learn([(2, "b", LATEST)])
    plan = order.plan([row(3, "a"), row(4, "b")])
    assert numbers(plan) == [[3]]
    assert deferred(plan) == {LATEST: [4]}


async def test_of_a_key_of_which_a_row_was_refused_no_other_is_tried() -> None:
    tried: list[str] = []

    async def forward(messages: list[Message], seconds: float) -> list[Exception | None]:
        tried.extend(message.id for message in messages)
        return [BusError("no") if message.id == "1" else None for message in messages]

    batch = rows("a", "b", "a", "b", "a", None)
    plan = PerKey().plan(batch)
    outcome = await forward_in_waves(forward, plan.waves, lambda: 1.0)  # type: ignore[arg-type]
    assert tried == ["1", "2", "6", "4"]
    assert [row.id for row in outcome.accepted] == [2, 6, 4]
    assert [row.id for row, _ in outcome.refused] == [1]


async def test_an_outage_ends_the_waves() -> None:
    tried: list[int] = []

    async def forward(messages: list[Message], seconds: float) -> list[Exception | None]:
        tried.append(len(messages))
        return [BusUnavailableError("bus", "down")] * len(messages)

    outcome = await forward_in_waves(forward, PerKey().plan(rows("a", "a")).waves, lambda: 1.0)  # type: ignore[arg-type]
    assert tried == [1]
    assert isinstance(outcome.outage, BusUnavailableError)
    assert not outcome.refused


async def test_a_wave_does_not_begin_when_no_time_is_left() -> None:
    left = [1.0, 0.0]

    async def forward(messages: list[Message], seconds: float) -> list[Exception | None]:
        return [None] * len(messages)

    plan = PerKey().plan(rows("a", "a"))
    outcome = await forward_in_waves(forward, plan.waves, lambda: left.pop(0))  # type: ignore[arg-type]
    assert [row.id for row in outcome.accepted] == [1]
    assert isinstance(outcome.outage, TimeoutError)


@given(st.lists(st.sampled_from(["a", "b", None]), max_size=12), st.data())
def test_whatever_is_refused_the_order_of_each_key_is_kept(
    keys: list[str | None], data: st.DataObject
) -> None:
    """Batches of any size, refusals at any time: what has left of a key is a growing sequence."""
    order = PerKey()
    table = {r.id: (r, 0) for r in rows(*keys)}  # the row, and when it is due
    left: list[OutboxRow] = []
    for now in range(200):
        due = sorted((then, r.id) for r, then in table.values() if then <= now)
        if not table:
            break
        at_once = [number for then, number in due if then == 0]
        later = [number for then, number in due if then > 0]
        limit = data.draw(st.integers(1, 4))
        batch = [table[number][0] for number in sorted(at_once[:limit] + later[:limit])]
        plan = order.plan(batch)
        for until, behind in plan.deferred.items():
            for r in behind:
                table[r.id] = (r, (until - START).seconds)
                order.waits(r, until)
        stuck: dict[str | None, int] = {}
        for wave in plan.waves:
            for r in wave:
                key = r.message.key
                if key is not None and key in stuck:
                    table[r.id] = (r, stuck[key])
                    order.waits(r, START + timedelta(seconds=stuck[key]))
                elif now < 100 and data.draw(st.booleans()):
                    until_ = now + data.draw(st.integers(1, 5))
                    table[r.id] = (r, until_)
                    order.waits(r, START + timedelta(seconds=until_))
                    stuck[key] = until_
                else:
                    del table[r.id]
                    order.over([r])
                    left.append(r)
    assert not table, "something never left"
    for key in ("a", "b"):
        sequence = [r.id for r in left if r.message.key == key]
        assert sequence == sorted(sequence)
