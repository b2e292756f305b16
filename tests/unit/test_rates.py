"""Attempts are counted by consumer, beside an observer that is there already."""

from __future__ import annotations

from dataclasses import dataclass

from events.integration import (
    EventHandlerConsumer,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    RetryPolicy,
    Topic,
)
from events.integration.observation import Observer, current_observer, observing
from events.memory import MemoryBroker, MemoryBus
from events.operations import Rates
from events.operations.rates import Attempts


@dataclass(frozen=True)
class Counted(IntegrationEvent):
    type = "rates.counted"
    version = 1
    bad: int


async def handle(event: Counted) -> None:
    if event.bad:
        raise ValueError("bad")


async def test_what_is_handled_and_what_fails_is_counted_by_consumer() -> None:
    broker, topic = MemoryBroker(), Topic("rates")
    consumer = EventHandlerConsumer("rates.consumer", {Counted: handle})
    retry = RetryPolicy(attempts=2, delay=0)
    other = Observer()
    with observing(other):
        async with (
            Rates() as rates,
            MemoryBus(
                [IntegrationEventBusRegistration(consumer, topic, retry=retry)], broker=broker
            ) as bus,
        ):
            await bus.send_many(topic, [Counted(0), Counted(1), Counted(0)])
            await broker.quiet()
            assert rates.of("rates.consumer") == Attempts(handled=2, failed=2)
            assert rates.of("another") == Attempts()
            assert current_observer() is not other
        assert current_observer() is other
