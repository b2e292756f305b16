"""`OutboxRelay` on a table that is a dict: what becomes of rows, and of the relay."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Sequence

import pytest

from events.errors import (
    BusError,
    BusNotStartedError,
    BusUnavailableError,
    OutboxError,
    SendOutcomeUnknownError,
)
from events.integration.bus import IntegrationEventBus
from events.integration.event import IntegrationEvent
from events.integration.implementation.memory import InMemoryIntegrationEventBus
from events.integration.message import Message
from events.integration.outbox import OutboxRelay, OutboxRow, relay, trouble
from events.integration.topology import (
    EventHandlerConsumer,
    IntegrationEventBusRegistration,
    RetryPolicy,
    Topic,
)
from tests.unit.integration.outbox_table import Numbered, Table, row

DEADLINE = 10.0
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
    monkeypatch.setattr(trouble, "_BACKOFF", quick)


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
async def test_trouble_with_the_bus_costs_rows_nothing_and_is_logged_once(
    error: BusError, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "events.integration")
    table, bus = Table(1, 2, 3), Forwarding(lambda _: error)
    async with OutboxRelay(table, bus) as relay:
        await until(lambda: len(bus.calls) > 6)
        assert relay.health().trouble == f"{type(error).__name__}: {error}"
        assert not relay.health().healthy
        bus.answer = lambda _: None
        async with asyncio.timeout(DEADLINE):
            await relay.drain()
        assert relay.health().healthy
    assert bus.accepted == ["1", "2", "3"]
    assert table.postponed == {}
    said = [record.levelname for record in caplog.records if "lanes" not in record.message]
    assert said == ["WARNING", "INFO"]


async def test_what_was_taken_before_the_trouble_is_removed() -> None:
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


# --- a bus on the bare port -----------------------------------------------------------------------


async def test_a_bare_port_gets_decoded_events_in_order() -> None:
    table, bus = Table(1, 2, 3), Bare()
    await drained(table, bus)
    assert bus.sent == [(Topic("numbers"), Numbered(n)) for n in (1, 2, 3)]
    assert table.rows == {}


@pytest.mark.parametrize("error", [unavailable(1), ConnectionResetError(), TimeoutError()])
async def test_a_bare_port_that_is_down_is_left_in_peace(error: Exception) -> None:
    table, bus = Table(1, 2, 3), Bare(lambda number: error if number == 2 else None)
    async with OutboxRelay(table, bus):
        await until(lambda: bus.tried.count(2) > 2)
        assert 3 not in bus.tried
        assert list(table.rows) == [2, 3]
        bus.answer = lambda _: None
        await until(lambda: not table.rows)
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
        assert relay.health().trouble == "TimeoutError: "
    assert list(table.rows) == [1]


# --- the relay's own life -------------------------------------------------------------------------


async def test_lifecycle_is_idempotent_and_can_begin_anew() -> None:
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


def test_it_begins_anew_after_an_event_loop_that_ended_without_its_shutdown() -> None:
    table, bus = Table(1), Forwarding()
    relay = OutboxRelay(table, bus)

    async def once() -> None:
        await relay.startup()
        async with asyncio.timeout(DEADLINE):
            await relay.drain()

    asyncio.run(once())
    table.commit(2)
    asyncio.run(once())
    assert bus.accepted == ["1", "2"]


async def test_startup_finds_a_bus_that_is_not_started_and_a_table_that_is_not_there() -> None:
    bus = InMemoryIntegrationEventBus()
    with pytest.raises(BusNotStartedError, match="InMemoryIntegrationEventBus"):
        await OutboxRelay(Table(), bus).startup()
    table = Table()
    table.broken = {"check": 1}
    with pytest.raises(LookupError):
        await OutboxRelay(table, bus).startup()


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


async def test_shutdown_lets_the_batch_in_flight_end() -> None:
    table, bus = Table(1, 2, 3), Gated()
    relay = OutboxRelay(table, bus, batch=2)
    await relay.startup()
    await bus.entered.wait()
    stopping = asyncio.create_task(relay.shutdown(grace=DEADLINE))
    await asyncio.sleep(0)
    bus.gate.set()
    await stopping
    assert bus.accepted == ["1", "2"]
    assert list(table.rows) == [3]


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
        await until(lambda: relay.health().trouble)
        async with asyncio.timeout(DEADLINE):
            await relay.shutdown(grace=NEVER)


async def test_a_nudge_wakes_an_idle_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "_FIRST_POLL", NEVER)
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

    monkeypatch.setattr(relay, "_wait", wait)
    table, bus = Table(), Forwarding()
    async with OutboxRelay(table, bus):
        await until(lambda: len(waits) > 14)
    assert waits[:12] == [pytest.approx(min(0.02 * 2**n, 2.0)) for n in range(12)]
    assert waits[12] == 0.01
    assert bus.accepted == ["1"]


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


async def test_drains_that_were_given_up_are_not_kept() -> None:
    table, bus = Table(1), Forwarding(unavailable)
    async with OutboxRelay(table, bus) as relay:
        for _ in range(10):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await relay.drain()
            calls = len(bus.calls)
            await until(lambda calls=calls: len(bus.calls) > calls + 1)  # type: ignore[misc]
        assert relay._turns == []


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


async def test_several_relays_on_one_table_lose_nothing() -> None:
    table, bus = Table(*range(50)), Forwarding()
    async with OutboxRelay(table, bus, batch=3) as one, OutboxRelay(table, bus, batch=7) as two:
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(one.drain(), two.drain())
    assert set(bus.accepted) == {str(n) for n in range(50)}
    assert table.rows == {}
