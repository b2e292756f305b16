"""What an observer is shown of each way that an event can take."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from events.domain import DomainEvent, DomainEventHandler
from events.domain import observation as domain_observation
from events.domain.dispatcher import DomainEventDispatcher
from events.domain.event_handler import DomainEventHandlerRegistry, SimpleDomainEventHandlerFactory
from events.errors import InvalidTopologyError, UnsupportedByBusError
from events.integration import (
    EventHandler,
    EventHandlerConsumer,
    IntegrationEvent,
    IntegrationEventBus,
    IntegrationEventBusRegistration,
    Middleware,
    OutboxRelay,
    RetryPolicy,
    Topic,
    current_delivery,
)
from events.integration.health import Backlog
from events.integration.message import Ack, Message, Reject, Retry
from events.integration.observation import Observer, current_observer, observing
from events.integration.serialization import with_trace
from events.memory import MemoryBroadcastBus, MemoryBus
from events.sqlalchemy import (
    SQLAlchemyInbox,
    SQLAlchemyOutbox,
    SQLAlchemyOutboxStore,
    inbox_table,
    outbox_table,
)
from events.testing import RecordingObserver, until_quiet

ORDERS = Topic("orders")


@dataclass
class Observed(IntegrationEvent):
    type = "tests.observed"
    version = 1
    number: int


def bus_with(
    handle: EventHandler,
    *,
    retry: RetryPolicy | None = None,
    middlewares: Sequence[Middleware] = (),
) -> MemoryBus:
    consumer = EventHandlerConsumer("billing", {Observed: [handle]})
    registration = IntegrationEventBusRegistration(consumer, ORDERS, [Observed], retry=retry)
    return MemoryBus([registration], middlewares=middlewares)


async def accept(event: Observed) -> None:
    pass


async def refuse(event: Observed) -> None:
    raise ValueError("no")


async def test_nobody_observes_unless_asked_to() -> None:
    assert current_observer() is None
    with observing(Observer()):
        assert current_observer() is not None
    assert current_observer() is None


async def test_a_base_observer_changes_nothing() -> None:
    with observing(Observer()):
        async with bus_with(accept) as bus:
            await bus.send(ORDERS, Observed(1))
            await bus.send_many(ORDERS, [Observed(2)])
            await until_quiet(bus)


async def test_a_send_is_sent_received_processed_and_settled() -> None:
    with RecordingObserver() as seen:
        async with bus_with(accept) as bus:
            await bus.send(ORDERS, Observed(1))
            await until_quiet(bus)
    assert sorted(seen.names) == ["processing", "received", "sending", "settled"]
    assert {each.details["system"] for each in seen.observations} == {"memory"}
    assert seen.named("settled")[0].details["settlement"] == Ack()
    assert seen.named("processing")[0].details["trace"] == "link"


async def test_send_many_is_created_one_by_one_and_sent_as_a_batch() -> None:
    with RecordingObserver() as seen:
        async with bus_with(accept) as bus:
            await bus.send_many(ORDERS, [Observed(1), Observed(2)])
            await until_quiet(bus)
    assert len(seen.named("created")) == 2
    [batch] = seen.named("sending_batch")
    assert batch.details["outcomes"] == [None, None]
    assert len(seen.named("processing")) == 2


async def test_what_is_sent_has_the_context_that_the_observer_gave_it() -> None:
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    found: list[str | None] = []

    class Stamping(RecordingObserver):
        def created(self, message: Message) -> Message:
            return with_trace(message, {"traceparent": parent})

    async def look(event: Observed) -> None:
        delivery = current_delivery()
        assert delivery is not None
        assert delivery.headers["ce-traceparent"] == parent
        found.append(delivery.headers.get("traceparent"))

    with Stamping():
        async with bus_with(look) as bus:
            await bus.send_many(ORDERS, [Observed(1)])
            await until_quiet(bus)
    assert found == [parent]


async def test_a_failure_is_retried_in_place_then_a_dead_letter_then_redriven() -> None:
    retry = RetryPolicy(attempts=2, delay=0.001)
    with RecordingObserver() as seen:
        async with bus_with(refuse, retry=retry) as bus:
            await bus.send(ORDERS, Observed(1))
            await until_quiet(bus)
            letters = await bus.dead_letters("billing")
            await bus.redrive("billing", letters)
            await until_quiet(bus)
            await bus.discard("billing", await bus.dead_letters("billing"))
    attempts = seen.named("processing")
    assert [each.details["delivery"].attempt for each in attempts] == [1, 2, 1, 2]
    assert all(isinstance(each.error, ValueError) for each in attempts)
    ends = [each.details["settlement"] for each in seen.named("settled")]
    waits = len(seen.named("retrying")) + len([end for end in ends if isinstance(end, Retry)])
    assert waits == 2
    assert len([end for end in ends if isinstance(end, Reject)]) == 2
    assert [each.details["count"] for each in seen.named("redriven")] == [1]
    assert [each.details["count"] for each in seen.named("discarded")] == [1]


async def test_what_cannot_be_decoded_is_received_and_settled_and_not_processed() -> None:
    with RecordingObserver() as seen:
        async with bus_with(accept) as bus:
            headers = {"ce-type": "tests.observed", "ce-eventversion": "1"}
            await bus.forward([Message("orders", "tests.observed", "1", b"no JSON", headers)])
            await until_quiet(bus)
    assert not seen.named("processing")
    assert isinstance(seen.named("settled")[0].details["settlement"], Reject)


async def test_an_outbox_is_created_forwarded_handled_once_and_recognised(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'outbox.db'}")
    metadata = MetaData()
    outbox_table(metadata)
    inbox_table(metadata)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    sessions = async_sessionmaker(engine)
    async with sessions() as session:
        await SQLAlchemyOutbox(session).put(ORDERS, Observed(1))
        await session.commit()
    with RecordingObserver() as seen:
        async with sessions() as session:
            await SQLAlchemyOutbox(session).put(ORDERS, Observed(2))
            await session.commit()
        async with bus_with(accept, middlewares=[SQLAlchemyInbox(sessions)]) as bus:
            async with OutboxRelay(SQLAlchemyOutboxStore(engine), bus) as relay:
                await relay.drain()
            [first, *_] = seen.named("received")
            received = first.details["delivery"]
            await until_quiet(bus)
            await bus.forward(
                [
                    Message(
                        ORDERS.name, "tests.observed", received.id, received.body, received.headers
                    )
                ]
            )
            await until_quiet(bus)
    await engine.dispose()
    assert [each.details["message"].body for each in seen.named("created")]
    forwarded = [m for each in seen.named("sending_batch") for m in each.details["messages"]]
    assert len(forwarded) == 3
    assert len(seen.named("duplicate")) == 1


async def test_a_row_that_is_refused_is_postponed_then_parked(tmp_path: Path) -> None:
    class Refusing(IntegrationEventBus):
        async def send(self, topic: Topic, event: IntegrationEvent) -> None:
            raise ValueError("no")

    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'outbox.db'}")
    metadata = MetaData()
    outbox_table(metadata)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    async with AsyncSession(engine) as session:
        await SQLAlchemyOutbox(session).put(ORDERS, Observed(2))
        await session.commit()
    store = SQLAlchemyOutboxStore(engine)
    with RecordingObserver() as seen:
        retry = RetryPolicy(attempts=2, delay=0.001)
        async with OutboxRelay(store, Refusing(), retry=retry) as relay:
            while not await relay.parked():
                await asyncio.sleep(0.005)
    await engine.dispose()
    assert seen.names == ["sending_batch", "postponed", "sending_batch", "parked"]
    assert len(seen.named("sending_batch")[0].details["outcomes"]) == 1


@dataclass
class Happened(DomainEvent):
    type = "tests.happened"


class Broken(DomainEventHandler[Happened]):
    async def handle(self, event: Happened) -> None:
        raise ValueError("broken")


class DomainRecorder(domain_observation.Observer):
    def __init__(self) -> None:
        self.seen: list[str] = []

    @contextmanager
    def handling(self, event: DomainEvent, handler: DomainEventHandler[Any]) -> Generator[None]:
        self.seen.append(f"begins {type(handler).__name__}")
        try:
            yield
        finally:
            self.seen.append("ends")


async def test_a_domain_events_handler_begins_and_ends() -> None:
    recorder = DomainRecorder()
    factory = SimpleDomainEventHandlerFactory(registry=DomainEventHandlerRegistry.of([Broken]))
    with domain_observation.observing(recorder):
        dispatcher = DomainEventDispatcher(factory)
        dispatcher.store_event(Happened())
        with pytest.raises(ValueError, match="broken") as raised:
            await dispatcher.process()
    assert recorder.seen == ["begins Broken", "ends"]
    assert "Broken was handling" in raised.value.__notes__[0]


def test_a_trace_context_replaces_the_one_before() -> None:
    headers = {"traceparent": "old", "ce-traceparent": "old", "tracestate": "a=1", "other": "stays"}
    message = with_trace(Message("t", "x", "1", b"", headers), {"traceparent": "new"})
    assert message.headers == {"traceparent": "new", "ce-traceparent": "new", "other": "stays"}


def test_an_unknown_trace_mode_is_refused() -> None:
    consumer = EventHandlerConsumer("billing", {Observed: [accept]})
    wrong = IntegrationEventBusRegistration(consumer, ORDERS, [Observed], trace="child")  # type: ignore[arg-type]
    with pytest.raises(InvalidTopologyError, match='trace must be "link" or "parent"'):
        wrong.check()


async def test_a_backlog_tells_what_a_consumer_has_yet_to_handle() -> None:
    free = asyncio.Event()

    async def wait(event: Observed) -> None:
        await free.wait()

    async with bus_with(wait) as bus:
        await bus.send_many(ORDERS, map(Observed, range(3)))
        await asyncio.sleep(0)
        found = await bus.backlog("billing")
        assert found.waiting + (found.in_flight or 0) == 3
        free.set()
        await until_quiet(bus)
        assert await bus.backlog("billing") == Backlog(0, 0, 0, 0, settled=3)
        with pytest.raises(InvalidTopologyError, match=r"'shipping'.*name its topics"):
            await bus.backlog("shipping")


async def test_a_broadcast_has_no_backlog() -> None:
    async with MemoryBroadcastBus() as bus:
        with pytest.raises(UnsupportedByBusError, match="a backlog"):
            await bus.backlog("billing", topics=[ORDERS])
