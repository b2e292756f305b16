"""An observer that fails where nobody could handle it is logged, and nothing stops for it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import create_async_engine

from events.integration import (
    EventHandlerConsumer,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    RetryPolicy,
    Topic,
    observation,
)
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.message import Delivery
from events.integration.observation import Observer, observing, together
from events.memory import MemoryBus
from events.sqlalchemy import SQLAlchemyBus, bus_table
from events.testing import eventually

ORDERS = Topic("orders")
BAD = 2


@dataclass
class Seen(IntegrationEvent):
    type = "tests.observers.seen"
    version = 1
    number: int


def fails(*_: object) -> Any:
    raise ValueError("statsd is away")


FAILS: Any = fails  # whatever it is called with


class Failing(Observer):
    received = retrying = settled = duplicate = postponed = parked = FAILS
    paused = resumed = redriven = discarded = settling = FAILS


class FailingAtTheEnd(Observer):
    @contextmanager
    def settling(self, deliveries: Sequence[Delivery], system: str) -> Generator[None]:
        yield
        fails()


class FailingAtTheBeginning(Observer):
    @contextmanager
    def settling(self, deliveries: Sequence[Delivery], system: str) -> Generator[None]:
        fails()
        yield


@pytest.fixture(params=["memory", "a database"])
async def bus(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncGenerator[TransportIntegrationEventBus]:
    if request.param == "memory":
        yield MemoryBus()
        return
    metadata = MetaData()
    bus_table(metadata)
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/bus.db")
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    yield SQLAlchemyBus(engine)
    await engine.dispose()


@pytest.mark.parametrize(
    "observer",
    [Failing(), FailingAtTheBeginning(), FailingAtTheEnd(), together(Observer(), Failing())],
    ids=["calls", "beginning", "end", "together"],
)
async def test_all_is_handled_and_settled_beside_an_observer_that_fails(
    observer: Observer,
    bus: TransportIntegrationEventBus,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(observation, "_logged", set())
    handled: list[int] = []

    async def handle(event: Seen) -> None:
        handled.append(event.number)
        if event.number == BAD or handled.count(event.number) == 1:
            raise ValueError

    async def has_a_dead_letter() -> bool:
        return bool(await bus.dead_letters("mails"))

    async def has_nothing_left() -> bool:
        backlog = await bus.backlog("mails")
        return not (backlog.waiting or backlog.in_flight or backlog.delayed)

    consumer = EventHandlerConsumer("mails", {Seen: [handle]})
    retry = RetryPolicy(attempts=2, delay=0.01)
    async with bus:
        await bus.register(IntegrationEventBusRegistration(consumer, ORDERS, retry=retry))
        with observing(observer):
            for number in range(BAD + 2):
                await bus.send(ORDERS, Seen(number))
            await eventually(lambda: len(handled) == 2 * (BAD + 2), saw=lambda: handled)
            await eventually(has_a_dead_letter)
            assert await bus.discard("mails", await bus.dead_letters("mails")) == 1
            await eventually(has_nothing_left)
    lines = [each for each in caplog.records if "This is logged once" in each.message]
    blocks_alone = isinstance(observer, FailingAtTheBeginning | FailingAtTheEnd)
    assert bool(lines) or (blocks_alone and isinstance(bus, MemoryBus))
    assert len({each.message for each in lines}) == len(lines)
