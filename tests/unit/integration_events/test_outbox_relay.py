"""`OutboxRelay` on a table that is a dict: what becomes of rows, and of the relay."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from events.errors import (
    BusError,
    BusNotStartedError,
    BusUnavailableError,
    MessageTooLargeError,
    NoSuchParkedRowError,
    OutboxError,
    SendOutcomeUnknownError,
    SendRefusedError,
    UnsupportedByBusError,
)
from events.integration.bus import IntegrationEventBus
from events.integration.event import IntegrationEvent
from events.integration.implementation.memory import InMemoryIntegrationEventBus
from events.integration.message import Message
from events.integration.outbox import (
    PARTITIONS,
    Lease,
    Order,
    OutboxRelay,
    OutboxRow,
    RelayStats,
    _outage,
    _reading,
    _relay_loop,
    partitions,
)
from events.integration.pipeline.retry import describe
from events.integration.topology import (
    EventHandlerConsumer,
    IntegrationEventBusRegistration,
    RetryPolicy,
    Topic,
)
from tests.unit.integration_events.outbox_table import Numbered, Table, row

DEADLINE = 60.0
NEVER = 3_600.0


class Forwarding(IntegrationEventBus):
    """Answers each message with what `answer` says of its id; keeps what it accepted."""

    def __init__(self, answer: Callable[[str], BusError | None] = lambda _: None) -> None:
        super().__init__()
        self.answer = answer
        self.accepted: list[str] = []
        self.calls: list[int] = []

    async def forward(self, messages: Sequence[Message]) -> list[BusError | None]:
        self.calls.append(len(messages))
        outcomes = [self.answer(message.id) for message in messages]
        self.accepted += [m.id for m, o in zip(messages, outcomes, strict=True) if o is None]
        return outcomes

    async def send(self, topic: Topic, event: IntegrationEvent) -> None:
        raise NotImplementedError


class Bare(IntegrationEventBus):
    """A bus on the bare port, as a user may have written one."""

    def __init__(self, answer: Callable[[int], Exception | None] = lambda _: None) -> None:
        super().__init__()
        self.answer = answer
        self.tried: list[int] = []
        self.sent: list[tuple[Topic, IntegrationEvent]] = []

    async def send(self, topic: Topic, event: IntegrationEvent) -> None:
        assert isinstance(event, Numbered)
        self.tried.append(event.number)
        error = self.answer(event.number)
        if error is not None:
            raise error
        self.sent.append((topic, event))


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = RetryPolicy(delay=0.001, factor=1, jitter=0)
    monkeypatch.setattr(_outage, "_BACKOFF", quick)


async def drained(table: Table, bus: IntegrationEventBus, batch: int = 500) -> None:
    async with OutboxRelay(table, bus, batch=batch) as relay, asyncio.timeout(DEADLINE):
        await relay.drain()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not holds():
            await asyncio.sleep(0)


def unavailable(_: object) -> BusUnavailableError:
    return BusUnavailableError("the bus", "it is down")


# --- what becomes of rows -------------------------------------------------------------------------


async def test_rows_leave_in_the_order_of_their_ids_in_batches() -> None:
    table, bus = Table(*range(25)), Forwarding()
    await drained(table, bus, batch=10)
    assert bus.accepted == [str(n) for n in range(25)]
    assert [calls for calls in bus.calls if calls] == [10, 10, 5]
    assert table.rows == {}


async def test_a_refused_row_waits_with_its_error_and_the_others_go_on() -> None:
    refusal = BusError("no such exchange")
    table = Table(1, 2, 3)
    bus = Forwarding(lambda id_: refusal if id_ == "2" else None)
    await drained(table, bus)
    assert bus.accepted == ["1", "3"]
    assert list(table.rows) == [2]
    postponed = table.postponed[2]
    assert postponed.error == "BusError: no such exchange"
    assert 0.4 < postponed.delay < 0.6


async def test_the_delay_of_a_refused_row_grows() -> None:
    table = Table()
    table.rows[1] = OutboxRow(1, row(1).message, attempts=2)
    bus = Forwarding(lambda _: BusError("no such exchange"))
    policy = RetryPolicy(delay=1, factor=5, jitter=0)
    async with OutboxRelay(table, bus, retry=policy) as relay, asyncio.timeout(DEADLINE):
        await relay.drain()
    assert table.postponed[1].delay == 25


@pytest.mark.parametrize(
    "error",
    [
        BusUnavailableError("the bus", "down"),
        SendOutcomeUnknownError("the bus", "2", "no answer"),
        BusNotStartedError("the bus", "forward"),
    ],
)
async def test_an_outage_of_the_bus_costs_rows_nothing_and_is_logged_once(
    error: BusError, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "events.integration")
    table, bus = Table(1, 2, 3), Forwarding(lambda _: error)
    async with OutboxRelay(table, bus) as relay:
        await until(lambda: len(bus.calls) > 6)
        assert relay.health().outage == f"{type(error).__name__}: {error}"
        assert not relay.health().healthy
        bus.answer = lambda _: None
        async with asyncio.timeout(DEADLINE):
            await relay.drain()
        assert relay.health().healthy
    assert bus.accepted == ["1", "2", "3"]
    assert table.postponed == {}
    said = [record.levelname for record in caplog.records if "partitions" not in record.message]
    assert said == ["WARNING", "INFO"]


async def test_what_was_taken_before_the_outage_is_removed() -> None:
    table = Table(1, 2, 3)
    bus = Forwarding(lambda id_: unavailable(id_) if id_ == "2" else None)
    async with OutboxRelay(table, bus):
        await until(lambda: list(table.rows) == [2])
        await until(lambda: len(bus.calls) > 4)
    assert bus.accepted == ["1", "3"]
    assert table.postponed == {}


async def test_a_message_that_breaks_forward_itself_stops_no_other() -> None:
    def answer(id_: str) -> None:
        if id_ == "2":
            raise ZeroDivisionError

    table, bus = Table(1, 2, 3), Forwarding(answer)
    await drained(table, bus)
    assert bus.accepted == ["1", "3"]
    assert table.postponed[2].error.startswith("ZeroDivisionError")


async def test_a_row_that_the_store_cannot_read_is_parked_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table, bus = Table(1, 2, 3), Forwarding()
    table.rows[2] = OutboxRow(2, row(2).message, fault=OutboxError("its headers are no JSON"))
    await drained(table, bus)
    assert bus.accepted == ["1", "3"]
    assert (table.in_parking[2].reason, table.in_parking[2].error) == (
        "unreadable",
        "OutboxError: its headers are no JSON",
    )
    assert "test.relay.numbered 2 for topic 'numbers' cannot be sent and is parked" in caplog.text


async def test_an_error_without_a_text_stops_no_other_row() -> None:
    class SilentError(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    table, bus = Table(1, 2, 3), Bare(lambda number: SilentError() if number == 2 else None)
    await drained(table, bus)
    assert bus.tried == [1, 2, 3]
    assert table.postponed[2].error == "SilentError: its text raised ZeroDivisionError"


async def test_an_error_is_kept_as_text_that_any_database_takes() -> None:
    table, bus = Table(1), Bare(lambda _: KeyError("nul \0"))
    await drained(table, bus)
    bus.answer = lambda _: ValueError("\ud800")
    table.commit(2)
    await drained(table, bus)
    assert table.postponed[2].error == "ValueError: \\ud800"
    assert "\0" not in table.postponed[1].error


async def test_a_database_that_fails_to_remove_makes_no_duplicates(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table, bus = Table(1, 2), Forwarding()
    table.broken = {"remove": 5}
    await drained(table, bus)
    assert bus.accepted == ["1", "2"]
    assert table.rows == {}
    assert len(caplog.records) == 1


async def test_a_database_that_fails_to_read_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table, bus = Table(1), Forwarding()
    table.broken = {"read": 5}
    await drained(table, bus)
    assert bus.accepted == ["1"]
    assert len(caplog.records) == 1
    assert "LookupError: the database cannot read" in caplog.text


async def test_at_debug_each_event_that_left_can_be_followed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "events.integration")
    table, bus = Table(1), Forwarding(lambda id_: BusError("no") if id_ == "3" else None)
    await drained(table, bus)
    assert "was sent" not in caplog.text
    caplog.set_level(logging.DEBUG, "events.integration")
    message = replace(row(2).message, headers={"ce-correlationid": "the-first"})
    table.add(OutboxRow(2, message, attempts=1), row(3))
    await drained(table, bus)
    (logged,) = (record for record in caplog.records if "was sent" in record.getMessage())
    assert logged.getMessage() == "test.relay.numbered 2 for topic 'numbers' was sent"
    assert logged.levelno == logging.DEBUG
    fields = ("topic", "event_type", "event_id", "correlation_id", "attempt")
    assert [logged.__dict__[field] for field in fields] == [
        "numbers", "test.relay.numbered", "2", "the-first", 2,
    ]  # fmt: skip


# --- parked rows ----------------------------------------------------------------------------------


async def test_after_its_attempts_a_row_is_parked_with_its_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table, bus = Table(1, 2), Forwarding(lambda i: BusError("no exchange") if i == "1" else None)
    policy = RetryPolicy(attempts=3, delay=0.0)
    async with OutboxRelay(table, bus, retry=policy) as relay, asyncio.timeout(DEADLINE):
        while not table.in_parking:
            await relay.drain()
        (parked,) = await relay.parked()
    assert (parked.id, parked.attempts, parked.reason) == (1, 3, "retries-exhausted")
    assert parked.error == "BusError: no exchange"
    assert table.rows == {}
    errors = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert errors == [
        "test.relay.numbered 1 for topic 'numbers' cannot be sent and is parked after 3 attempts "
        "(retries-exhausted): BusError: no exchange"
    ]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MessageTooLargeError("numbers", "t", 9, 8), "too-large"),
        (SendRefusedError("bus", "numbers", "no permission"), "unretryable"),
        (UnsupportedByBusError("bus", "this", "that"), "unretryable"),
    ],
)
async def test_what_will_never_be_taken_is_parked_at_once(
    error: BusError, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    table, bus = Table(1, 2), Forwarding(lambda id_: error if id_ == "1" else None)
    policy = RetryPolicy(dead_letter_on=(UnsupportedByBusError,))
    async with OutboxRelay(table, bus, retry=policy) as relay, asyncio.timeout(DEADLINE):
        await relay.drain()
    assert (table.in_parking[1].reason, table.in_parking[1].attempts) == (reason, 1)
    assert f"is parked after 1 attempt ({reason})" in caplog.text
    assert bus.accepted == ["2"]


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "10", None])
async def test_a_listing_of_parked_rows_has_a_limit_from_1_on(limit: Any) -> None:
    relay = OutboxRelay(Table(), Forwarding(lambda _: None))
    with pytest.raises(ValueError, match="limit must be") as caught:
        await relay.parked(limit=limit)
    assert str(caught.value) == (
        f"parked rows of {relay!r}: limit must be a whole number from 1 on, not {limit!r}; "
        f"for the next page, call again with after="
    )


async def test_parked_rows_are_paged_redriven_and_discarded() -> None:
    bad = {"1", "2", "3"}
    table = Table(1, 2, 3, 4)
    bus = Forwarding(lambda id_: BusError("no") if id_ in bad else None)
    relay = OutboxRelay(table, bus, retry=RetryPolicy(attempts=1))
    async with relay, asyncio.timeout(DEADLINE):
        await relay.drain()
    # Stopped, it can still be asked.
    one, two, three = await relay.parked()
    assert await relay.parked(limit=2) == [one, two]
    assert await relay.parked(after=two.id) == [three]
    bad.clear()
    assert await relay.redrive([one, two.id]) == 2
    assert await relay.discard(three) == 1
    assert await relay.parked() == []
    with pytest.raises(
        NoSuchParkedRowError, match="no parked rows 3, 77: they were already redriven"
    ):
        await relay.discard([77, 3])
    async with relay, asyncio.timeout(DEADLINE):
        await relay.drain()
    assert bus.accepted == ["4", "1", "2"]


async def test_old_parked_rows_are_deleted_on_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "events.integration")
    table = Table(1, 2)
    bus = Forwarding(lambda _: BusError("no"))
    policy = RetryPolicy(attempts=1)
    async with OutboxRelay(table, bus, retry=policy) as relay, asyncio.timeout(DEADLINE):
        await relay.drain()
    assert len(table.in_parking) == 2
    async with OutboxRelay(table, bus, keep_parked=timedelta(days=7)):
        await until(lambda: not table.in_parking)
        await until(lambda: "deleted 2 rows parked over 7 days, 0:00:00 ago" in caplog.text)


# --- lag and rate ---------------------------------------------------------------------------------


async def test_lag_is_warned_of_once_and_its_end_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "events.integration")
    table, bus = Table(1), Forwarding(unavailable)
    async with OutboxRelay(table, bus, lease=0.05, lag_warning=60) as relay:
        await until(lambda: relay.health().outage)
        table.now = 100
        await until(lambda: "100 s behind, over its limit of 60 s: is the bus down" in caplog.text)
        renewed = table.renewed
        await until(lambda: table.renewed > renewed + 3)
        assert caplog.text.count("s behind") == 1
        bus.answer = lambda _: None
        table.now = 101
        async with asyncio.timeout(DEADLINE):
            await relay.drain()
        await until(lambda: "the outbox has caught up" in caplog.text)


async def test_stats_count_rows_and_tell_the_rate() -> None:
    table = Table(*range(1, 101))
    bus = Forwarding(lambda id_: BusError("no") if id_ == "7" else None)
    policy = RetryPolicy(attempts=1)
    async with OutboxRelay(table, bus, retry=policy) as relay, asyncio.timeout(DEADLINE):
        await relay.drain()
        table.rows[500], table.then[500], table.now = row(500), 1_000.0, 30.0
        stats = await relay.stats()
    assert stats == RelayStats(pending=1, parked=1, oldest_age=30.0, rate=9.9)


# --- its lease ------------------------------------------------------------------------------------


async def test_a_relay_that_was_paused_past_its_lease_sends_nothing_before_it_renews(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1_000.0]
    monkeypatch.setattr(partitions, "_clock", lambda: lambda: now[0])
    table, bus = Table(1, 2), Forwarding()
    paused: list[int] = []

    def on_step(step: str) -> None:
        if step == "selected" and not paused:
            paused.append(table.renewed)
            now[0] += 31

    async with OutboxRelay(table, bus, on_step=on_step) as relay, asyncio.timeout(DEADLINE):
        await until(lambda: paused)
        await relay.drain()
    assert table.renewed > paused[0]
    assert [calls for calls in bus.calls if calls] == [2]
    assert "was paused for longer than its lease and renews it" in caplog.text


async def test_a_relay_that_has_lost_all_partitions_in_a_full_batch_lets_others_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, looks = [1_000.0], [0]

    def clock() -> float:
        looks[0] += 1
        assert looks[0] < 10_000, "it goes round without a rest"
        return now[0]

    monkeypatch.setattr(partitions, "_clock", lambda: clock)
    table, bus = Table(1, 2), Forwarding()
    rival = Lease("rival", "t", frozenset(range(PARTITIONS)), 30.0, 30.0)

    def on_step(step: str) -> None:
        if step == "removed":
            now[0] += 31
            table.leases = {"rival": (rival, 30.0)}

    async with OutboxRelay(table, bus, batch=1, on_step=on_step) as relay:
        await until(lambda: table.renewed == 2)
        looked = looks[0]
        await until(lambda: looks[0] > looked + 5 or not relay.health().alive)
        assert relay.health().alive
        assert relay.health().partitions == 0
    assert bus.accepted == ["1"]


@pytest.mark.parametrize("error", [BusError("no"), MessageTooLargeError("numbers", "t", 9, 8)])
async def test_what_was_refused_under_a_lease_that_ran_out_is_left_to_who_has_it_now(
    monkeypatch: pytest.MonkeyPatch, error: BusError
) -> None:
    now = [1_000.0]
    monkeypatch.setattr(partitions, "_clock", lambda: lambda: now[0])
    table, bus = Table(1, 2), Forwarding(lambda id_: error if id_ == "1" else None)

    def on_step(step: str) -> None:
        if step == "sent":
            now[0] += 31
            bus.answer = lambda _: None

    async with OutboxRelay(table, bus, on_step=on_step) as relay, asyncio.timeout(DEADLINE):
        await relay.drain()
    assert bus.accepted == ["2", "1"]
    assert table.postponed == {}
    assert table.in_parking == {}


async def test_a_refusal_that_cannot_be_written_before_the_lease_ends_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1_000.0]
    monkeypatch.setattr(partitions, "_clock", lambda: lambda: now[0])
    table, bus = Table(1), Forwarding(lambda _: BusError("no"))
    table.broken = {"postpone": 1_000_000}
    async with OutboxRelay(table, bus, order="per_key") as relay, asyncio.timeout(DEADLINE):
        await until(lambda: table.broken["postpone"] < 1_000_000)
        bus.answer = lambda _: None
        now[0] += 31
        await relay.drain()
    assert bus.accepted == ["1"]


async def test_rows_that_wait_are_known_before_any_of_their_partitions_is_sent() -> None:
    table, bus = Table(), Forwarding()
    table.add(row(1, "a"), row(2, "a"))
    table.then[1], table.errors[1] = 100.0, "BusError: no"
    table.broken = {"tell who waits": 3}
    async with OutboxRelay(table, bus, order="per_key") as relay, asyncio.timeout(DEADLINE):
        await relay.drain()
        assert bus.accepted == []
        table.now = 100.0
        await relay.drain()
    assert bus.accepted == ["1", "2"]


async def test_a_bus_that_hangs_is_given_up_before_the_lease_runs_out() -> None:
    table, bus = Table(1), Gated()
    async with OutboxRelay(table, bus, lease=0.2) as relay:
        await bus.entered.wait()
        await until(lambda: relay.health().outage)
        assert "TimeoutError" in (relay.health().outage or "")
        assert table.rows.keys() == {1}
        assert table.postponed == {}
        bus.gate.set()
        async with asyncio.timeout(DEADLINE):
            await relay.drain()
    assert bus.accepted == ["1"]


async def test_a_slow_bare_bus_keeps_what_it_has_sent_when_the_lease_ends() -> None:
    class Slow(Bare):
        async def send(self, topic: Topic, event: IntegrationEvent) -> None:
            await asyncio.sleep(0.02)
            await super().send(topic, event)

    table, bus = Table(*range(1, 41)), Slow()
    async with OutboxRelay(table, bus, lease=0.3) as relay, asyncio.timeout(DEADLINE):
        await relay.drain()
    assert sorted({event.number for _, event in bus.sent}) == list(range(1, 41))  # type: ignore[attr-defined]
    # One of each read was on its way when the lease ended.
    assert len(bus.sent) <= 40 + table.reads, "each batch started from the beginning"


async def test_two_relays_under_one_name_end_one_of_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    table = Table()
    one = OutboxRelay(table, Forwarding(), name="orders", lease=0.1)
    two = OutboxRelay(table, Forwarding(), name="orders", lease=0.1)
    async with one, two, asyncio.timeout(DEADLINE):
        # The table's clock stands still, so every renewal is seen as one.
        monkeypatch.setattr(table, "renew", _ticking(table))
        await until(lambda: not (one.health().alive and two.health().alive))
    assert "two relays run under the name 'orders'" in caplog.text


def _ticking(table: Table) -> Callable[..., Any]:
    renew = table.renew

    async def ticking(decide: Any) -> Any:
        table.now += 0.01
        return await renew(decide)

    return ticking


async def test_a_database_that_fails_at_renewing_is_tried_again_at_ease(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table, bus = Table(1), Forwarding()
    table.broken = {"renew": 3, "leave": 1}
    caplog.set_level(logging.INFO, "events.integration")
    async with OutboxRelay(table, bus) as relay, asyncio.timeout(DEADLINE):
        await relay.drain()
    assert bus.accepted == ["1"]
    assert caplog.text.count("the database cannot renew") == 1
    assert "could not release its lease, which will expire: LookupError" in caplog.text


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("lease", 0, "lease must be above 0, not 0: set seconds, as in lease=30"),
        ("lease", -1, "lease must be above 0, not -1"),
        ("lease", float("nan"), "lease must be above 0, not nan"),
        ("lease", float("inf"), "lease must be finite, not inf"),
        ("batch", 0, "batch must be above 0, not 0: set the number of rows to send at once"),
        ("poll_interval", -1, "poll_interval must be above 0, not -1"),
        ("send_timeout", 0, "send_timeout must be above 0, not 0"),
        ("lag_warning", -1, "lag_warning must be 0 or more, not -1"),
        ("shutdown_grace", -0.5, "shutdown_grace must be 0 or more, not -0.5"),
        ("name", "", "name must have 1 to 255 characters, not 0"),
        ("name", "x" * 256, "name must have 1 to 255 characters, not 256: shorten or omit it"),
        ("order", "fifo", "order must be 'best_effort' or 'per_key', not 'fifo'"),
    ],
)
def test_options_that_cannot_work_are_refused(option: str, value: Any, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        OutboxRelay(Table(), Forwarding(), **{option: value})


# --- a bus on the bare port -----------------------------------------------------------------------


async def test_a_bare_port_gets_decoded_events_in_order() -> None:
    table, bus = Table(1, 2, 3), Bare()
    await drained(table, bus)
    assert bus.sent == [(Topic("numbers"), Numbered(n)) for n in (1, 2, 3)]
    assert table.rows == {}


@pytest.mark.parametrize("error", [unavailable(1), ConnectionResetError(), TimeoutError()])
async def test_a_bare_port_that_is_down_is_left_in_peace(error: Exception) -> None:
    down = {2, 3, 4, 5}
    table, bus = Table(1, 2, 3, 4, 5), Bare(lambda number: error if number in down else None)
    async with OutboxRelay(table, bus) as relay:
        await until(lambda: bus.tried.count(2) > 2)
        assert relay.health().outage
        assert bus.tried[:5] == [1, 2, 3, 2, 4], "one more is tried, to know whose fault it is"
        assert list(table.rows) == [2, 3, 4, 5]
        down.clear()
        await until(lambda: not table.rows)
    assert table.postponed == {}
    assert [event.number for _, event in bus.sent] == [1, 2, 3, 4, 5]  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", [unavailable(1), ConnectionResetError("reset"), TimeoutError()])
@pytest.mark.parametrize("order", ["best_effort", "per_key"])
async def test_an_event_that_alone_looks_like_a_bare_port_that_is_down_is_refused(
    error: Exception, order: Order
) -> None:
    table, bus = Table(*range(1, 8)), Bare(lambda n: error if n in {2, 5} else None)
    async with OutboxRelay(table, bus, order=order) as relay, asyncio.timeout(DEADLINE):
        await relay.drain()
        assert relay.health().healthy
    assert [event.number for _, event in bus.sent] == [1, 3, 4, 6, 7]  # type: ignore[attr-defined]
    assert bus.tried == [1, 2, 3, 2, 4, 5, 6, 5, 7]
    assert table.postponed.keys() == {2, 5}
    assert table.postponed[2].error == describe(error)


async def test_any_number_of_such_events_side_by_side_stops_no_other() -> None:
    table, bus = Table(*range(1, 9)), Bare(lambda n: OSError() if n in {1, 2, 3, 4, 8} else None)
    async with OutboxRelay(table, bus) as relay:
        await until(lambda: table.postponed.keys() >= {1, 2, 3})
        table.commit(9, 10)
        async with asyncio.timeout(DEADLINE):
            await relay.drain()
        assert relay.health().healthy
    assert table.postponed.keys() == {1, 2, 3, 4, 8}
    assert sorted(event.number for _, event in bus.sent) == [5, 6, 7, 9, 10]  # type: ignore[attr-defined]


async def test_after_a_bare_port_was_down_such_an_event_is_still_distinguished_from_the_others() -> (
    None
):
    down = {1, 2, 3}
    table, bus = Table(1, 2, 3), Bare(lambda number: OSError() if number in down else None)
    async with OutboxRelay(table, bus) as relay:
        await until(lambda: set(bus.tried) == {1, 2, 3} and bus.tried.count(1) > 3)
        down -= {2, 3}
        async with asyncio.timeout(DEADLINE):
            await relay.drain()
        forward: Any = relay._relay_loop._forward
        assert forward._quarantined == set()
    assert table.postponed.keys() == {1}
    assert sorted(event.number for _, event in bus.sent) == [2, 3]  # type: ignore[attr-defined]


async def test_a_bare_port_that_is_down_for_a_moment_costs_no_row_an_attempt() -> None:
    failures = iter([ConnectionResetError()])
    table = Table(1, 2, 3)
    bus = Bare(lambda number: next(failures, None) if number == 2 else None)
    await drained(table, bus)
    assert bus.tried == [1, 2, 3, 2]
    assert table.postponed == {}
    assert table.rows == {}


async def test_an_event_that_was_refused_does_not_tell_whether_a_bare_port_is_up() -> None:
    def answer(number: int) -> Exception | None:
        return {1: OSError(), 2: KeyError("tenant"), 3: OSError()}.get(number)

    table, bus = Table(1, 2, 3), Bare(answer)
    async with OutboxRelay(table, bus) as relay:
        await until(lambda: relay.health().outage)
        await until(lambda: bus.tried.count(1) > 2)
    assert table.postponed.keys() == {2}


async def test_an_event_that_used_up_the_time_of_the_lease_is_not_blamed() -> None:
    class Slow(Bare):
        async def send(self, topic: Topic, event: IntegrationEvent) -> None:
            await super().send(topic, event)
            if self.tried.count(1) == 2:
                await asyncio.Event().wait()

    failures = iter([OSError()])
    table, bus = Table(1, 2), Slow(lambda number: next(failures, None) if number == 1 else None)
    async with OutboxRelay(table, bus, lease=0.3):
        await until(lambda: bus.tried.count(1) > 2 and not table.rows)
    assert table.postponed == {}


async def test_a_bare_port_that_refuses_one_event_gets_the_others() -> None:
    table = Table(1, 2, 3)
    table.rows[1] = OutboxRow(
        1, Message("numbers", "gone", "1", b'{"type":"gone","version":1}', {})
    )
    bus = Bare(lambda number: KeyError("tenant") if number == 2 else None)
    await drained(table, bus)
    assert bus.tried == [2, 3]
    assert table.postponed[1].error.startswith("UnknownEventError")
    assert table.postponed[2].error == "KeyError: 'tenant'"


async def test_a_bare_port_that_hangs_is_given_up() -> None:
    class Hanging(Bare):
        async def send(self, topic: Topic, event: IntegrationEvent) -> None:
            await super().send(topic, event)
            await asyncio.Event().wait()

    table, bus = Table(1), Hanging()
    async with OutboxRelay(table, bus, send_timeout=0.01) as relay:
        await until(lambda: len(bus.tried) > 1)
        outage = relay.health().outage or ""
        assert outage.startswith("TimeoutError: it has no text, and was raised in events.")
    assert list(table.rows) == [1]


# --- the relay's own life -------------------------------------------------------------------------


async def test_lifecycle_is_idempotent_and_can_begin_again() -> None:
    table, bus = Table(1), Forwarding()
    relay = OutboxRelay(table, bus)
    assert not relay.health().started
    await relay.shutdown()
    for number in (1, 2):
        await relay.startup()
        await relay.startup()
        assert relay.health().healthy
        table.commit(number)
        async with asyncio.timeout(DEADLINE):
            await relay.drain()
        await relay.shutdown()
        await relay.shutdown()
    assert bus.accepted == ["1", "2"]
    assert table.wakes == []
    assert table.leases == {}


def test_it_can_be_used_in_one_event_loop_after_another() -> None:
    table, bus = Table(), Forwarding()
    relay = OutboxRelay(table, bus)

    async def once(number: int) -> None:
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(relay.startup(), relay.startup())
            reads = table.reads
            await until(lambda: table.reads > reads + 1)  # it has been idle, and waited
            table.commit(number)
            await relay.drain()
            await asyncio.gather(relay.shutdown(), relay.shutdown())

    asyncio.run(once(1))
    asyncio.run(once(2))
    assert bus.accepted == ["1", "2"]


def test_it_begins_again_after_an_event_loop_that_ended_without_its_shutdown() -> None:
    table, bus = Table(1), Forwarding()
    relay = OutboxRelay(table, bus)

    async def once() -> None:
        await relay.startup()
        async with asyncio.timeout(DEADLINE):
            await relay.drain()

    asyncio.run(once())
    table.commit(2)
    with pytest.raises(OutboxError, match="was started in another event loop"):
        asyncio.run(relay.drain())
    asyncio.run(once())
    assert bus.accepted == ["1", "2"]
    asyncio.run(relay.shutdown())
    with pytest.raises(OutboxError, match="is not started"):
        asyncio.run(relay.drain())


async def test_using_it_in_another_event_loop_than_its_own_says_so() -> None:
    table, bus = Table(1), Forwarding()

    async def use_all(relay: OutboxRelay) -> None:
        for use in (relay.startup, relay.shutdown, relay.drain):
            with pytest.raises(OutboxError, match="was started in another event loop; use it"):
                async with asyncio.timeout(DEADLINE):
                    await use()

    async with OutboxRelay(table, bus) as relay:
        await asyncio.to_thread(asyncio.run, use_all(relay))
        async with asyncio.timeout(DEADLINE):
            await relay.drain()
        assert relay.health().healthy
    assert bus.accepted == ["1"]


async def test_startup_finds_a_bus_that_is_not_started_and_a_table_that_is_not_there() -> None:
    bus = InMemoryIntegrationEventBus()
    with pytest.raises(BusNotStartedError, match="InMemoryIntegrationEventBus"):
        await OutboxRelay(Table(), bus).startup()
    table = Table()
    table.broken = {"check": 1}
    with pytest.raises(OutboxError, match=r"is its database up\? LookupError: ") as raised:
        await OutboxRelay(table, bus).startup()
    assert isinstance(raised.value.__cause__, LookupError)


async def test_a_bus_of_ours_delivers_what_is_relayed() -> None:
    handled: list[Numbered] = []

    async def handle(event: Numbered) -> None:
        handled.append(event)

    consumer = EventHandlerConsumer("c", {Numbered: handle})
    registration = IntegrationEventBusRegistration(consumer, Topic("numbers"), [Numbered])
    async with InMemoryIntegrationEventBus([registration]) as bus:
        await drained(Table(1, 2), bus)
        async with asyncio.timeout(DEADLINE):
            await bus.broker.quiet()
    assert handled == [Numbered(1), Numbered(2)]


class Gated(Forwarding):
    """Holds each batch until the gate is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = asyncio.Event()
        self.gate = asyncio.Event()

    async def forward(self, messages: Sequence[Message]) -> list[BusError | None]:
        if messages:
            self.entered.set()
            await self.gate.wait()
        return await super().forward(messages)


async def test_shutdown_lets_the_batches_in_flight_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_reading, "_BUSY", DEADLINE)  # so that it reads ahead, and does not scan
    table, bus = Table(1, 2, 3, 4, 5), Gated()
    relay = OutboxRelay(table, bus, batch=2)
    await relay.startup()
    await until(lambda: bus.entered.is_set() and relay._relay_loop._reader.has_read_ahead)
    stopping = asyncio.create_task(relay.shutdown(grace=DEADLINE))
    for _ in range(100):
        await asyncio.sleep(0)
    bus.gate.set()
    await stopping
    assert bus.accepted == ["1", "2", "3", "4"]
    assert list(table.rows) == [5]


async def test_past_the_grace_the_batch_is_given_up_without_loss() -> None:
    table, bus = Table(1, 2), Gated()
    relay = OutboxRelay(table, bus)
    await relay.startup()
    await bus.entered.wait()
    await relay.shutdown(grace=0)
    assert list(table.rows) == [1, 2]
    assert bus.accepted == []
    assert not relay.health().alive


async def test_shutdown_does_not_wait_for_a_bus_that_is_down() -> None:
    relay = OutboxRelay(Table(1), Forwarding(unavailable))
    async with relay:
        await until(lambda: relay.health().outage)
        async with asyncio.timeout(DEADLINE):
            await relay.shutdown(grace=NEVER)


async def test_a_nudge_wakes_an_idle_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_relay_loop, "FIRST_POLL", NEVER)
    asyncio.get_running_loop().set_debug(True)
    table, bus = Table(), Forwarding()
    async with OutboxRelay(table, bus, poll_interval=NEVER):
        await until(lambda: table.reads == 1)
        for number in range(3):
            # From another thread, as a commit of another event loop would.
            await asyncio.to_thread(table.commit, number)
            await until(lambda: not table.rows)
    assert bus.accepted == ["0", "1", "2"]


async def test_without_nudges_it_polls_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def wait(event: asyncio.Event, seconds: float) -> bool:
        waits.append(seconds)
        await asyncio.sleep(0)
        if len(waits) == 12:
            table.rows[1] = row(1)  # committed by another process: nobody nudges
        return False

    monkeypatch.setattr(_relay_loop, "_wait", wait)
    table, bus = Table(), Forwarding()
    async with OutboxRelay(table, bus):
        await until(lambda: len(waits) > 14)
    assert waits[:12] == [pytest.approx(min(0.02 * 2**n, 2.0)) for n in range(12)]
    assert waits[12] == 0.01
    assert bus.accepted == ["1"]


async def test_what_is_committed_late_is_scanned_for_though_nothing_wakes_the_relay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Slow(Table):
        async def due(
            self,
            lease: Lease,
            limit: int,
            *,
            after: int | None = None,
            max_bytes: int | None = None,
        ) -> Sequence[OutboxRow]:
            if after is None:
                await asyncio.sleep(0.02)  # so that the next scan is a while off
            return await super().due(lease, limit, after=after, max_bytes=max_bytes)

    monkeypatch.setattr(_relay_loop, "FIRST_POLL", NEVER)
    table, bus = Slow(), Forwarding()
    # It reads when it renews its lease, too, which is not within the deadline here.
    async with OutboxRelay(table, bus, poll_interval=NEVER, lease=NEVER):
        await until(lambda: table.reads)
        table.commit(10)
        await until(lambda: bus.accepted == ["10"])
        reads = table.reads
        table.commit(5)  # its nudge has the relay read on, which passes it over
        await until(lambda: table.reads > reads)
        await until(lambda: bus.accepted == ["10", "5"])


async def test_a_bus_that_takes_some_rows_is_not_waited_for_ever_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_outage, "_BACKOFF", RetryPolicy(delay=0.001, factor=10_000, jitter=0))
    table = Table(1)
    bus = Forwarding(lambda id_: unavailable(id_) if id_ == "1" else None)
    number = 1

    def one_more(step: str) -> None:
        nonlocal number
        if step == "selected":
            number += 1
            table.rows[number] = row(number)

    async with OutboxRelay(table, bus, on_step=one_more):
        async with asyncio.timeout(DEADLINE):
            await until(lambda: len(bus.accepted) > 5)


async def test_drain_waits_for_what_was_committed_before_it() -> None:
    table, bus = Table(1), Gated()
    async with OutboxRelay(table, bus) as relay:
        await bus.entered.wait()
        table.rows[2] = row(2)
        draining = asyncio.create_task(relay.drain())
        await asyncio.sleep(0)
        assert not draining.done()
        bus.gate.set()
        async with asyncio.timeout(DEADLINE):
            await draining
        assert bus.accepted == ["1", "2"]


async def test_drain_waits_at_ease_for_rows_in_the_partitions_of_another() -> None:
    table = Table(1)
    table.leases["rival"] = Lease("rival", "t", frozenset(range(PARTITIONS)), 30.0, 30.0), 30.0
    async with OutboxRelay(table, Forwarding()) as relay:
        draining = asyncio.create_task(relay.drain())
        await asyncio.wait([draining], timeout=0.3)
        assert table.times_asked < 30
        await until(lambda: table.times_asked > 1)
        draining.cancel()


async def test_drains_that_were_given_up_are_not_kept() -> None:
    table, bus = Table(1), Forwarding(unavailable)
    async with OutboxRelay(table, bus) as relay:
        for _ in range(10):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await relay.drain()
            calls = len(bus.calls)
            await until(lambda calls=calls: len(bus.calls) > calls + 1)  # type: ignore[misc]
        assert relay._relay_loop._turns == []


async def test_drain_of_a_relay_that_is_not_there_is_an_error() -> None:
    relay = OutboxRelay(Table(1), Gated())
    with pytest.raises(OutboxError, match="not started"):
        await relay.drain()
    await relay.startup()
    draining = asyncio.create_task(relay.drain())
    await asyncio.sleep(0)
    await relay.shutdown(grace=0)
    with pytest.raises(OutboxError, match="has stopped"):
        await draining


async def test_run_ends_by_a_signal() -> None:
    table, bus = Table(1), Forwarding()
    running = asyncio.create_task(OutboxRelay(table, bus).run())
    await until(lambda: not table.rows)
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(DEADLINE):
        await running


async def test_run_raises_if_the_relay_dies_and_health_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Deadly(BaseException):
        pass

    def die(step: object) -> None:
        raise Deadly

    relay = OutboxRelay(Table(1), Forwarding(), on_step=die)
    await relay.startup()
    await until(lambda: not relay.health().alive)
    assert relay.health().started
    assert not relay.health().healthy
    with pytest.raises(OutboxError, match="has stopped") as caught:
        await relay.run(signals=())
    assert isinstance(caught.value.__cause__, Deadly)
    assert "stopped by itself" in caplog.text


@pytest.mark.parametrize("verb", ["forward", "renew", "due", "remove"])
async def test_a_driver_that_cancels_what_it_should_fail_stops_no_relay(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, bus = Table(1), Forwarding()
    owner: Any = bus if verb == "forward" else table
    works = getattr(owner, verb)
    cancelled: list[object] = []

    async def cancels(*args: Any, **options: Any) -> Any:
        if not cancelled and args[0]:
            cancelled.append(args)
            raise asyncio.CancelledError
        return await works(*args, **options)

    monkeypatch.setattr(owner, verb, cancels)
    async with OutboxRelay(table, bus) as relay, asyncio.timeout(DEADLINE):
        await relay.drain()
        assert relay.health().healthy
    assert cancelled
    assert bus.accepted == ["1"]


async def test_what_a_bare_port_took_before_it_cancelled_a_send_is_not_sent_again() -> None:
    class Cancelling(Bare):
        async def send(self, topic: Topic, event: IntegrationEvent) -> None:
            assert isinstance(event, Numbered)
            if event.number == 3:
                raise asyncio.CancelledError
            await super().send(topic, event)

    table, bus = Table(*range(1, 6)), Cancelling()
    await drained(table, bus)
    assert bus.tried == [1, 2, 4, 5]
    assert table.postponed.keys() == {3}
    assert "may or may not have taken message 3" in table.postponed[3].error


async def test_what_a_bus_took_before_it_cancelled_a_call_is_not_sent_again() -> None:
    cancelled: list[str] = []

    class Cancelling(Forwarding):
        async def forward(self, messages: Sequence[Message]) -> list[BusError | None]:
            ids = [message.id for message in messages]
            if ids == ["2"] and not cancelled:
                cancelled.extend(ids)
                raise asyncio.CancelledError
            return await super().forward(messages)

    table, bus = Table(), Cancelling()
    table.add(row(1, "ada"), row(2, "ada"), row(3, "bob"))
    async with OutboxRelay(table, bus, order="per_key") as relay, asyncio.timeout(DEADLINE):
        await relay.drain()
    assert cancelled == ["2"]
    assert bus.accepted == ["1", "3", "2"]


async def test_beginning_again_leaves_no_task_behind() -> None:
    class Deadly(BaseException):
        pass

    def die(step: object) -> None:
        raise Deadly

    before = asyncio.all_tasks()
    relay = OutboxRelay(Table(), Forwarding(), on_step=die, keep_parked=timedelta(days=7))
    for _ in range(2):
        await relay.startup()
        await until(lambda: not relay.health().alive)
    await relay.shutdown()
    assert asyncio.all_tasks() == before


async def test_several_relays_on_one_table_lose_nothing() -> None:
    table, bus = Table(*range(50)), Forwarding()
    async with OutboxRelay(table, bus, batch=3) as one, OutboxRelay(table, bus, batch=7) as two:
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(one.drain(), two.drain())
    assert set(bus.accepted) == {str(n) for n in range(50)}
    assert table.rows == {}
