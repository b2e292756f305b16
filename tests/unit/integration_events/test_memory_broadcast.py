"""The in-memory broadcast where a consumer is slower than who sends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from events.integration import EventHandlerConsumer, IntegrationEvent, Topic
from events.integration.brokering.read_ahead import READ_AHEAD
from events.integration.implementation.memory import broadcast
from events.memory import MemoryBroadcastBus
from events.testing import eventually

TOPIC = Topic("pictures")
FEW = 17  # of them are more than may wait


@dataclass(frozen=True)
class Taken(IntegrationEvent):
    type = "broadcast.taken"
    version = 1
    number: int
    picture: str = "x" * (READ_AHEAD // (FEW - 1) - 1_000)


def bus_with(*handlers: Callable[[Any], Any]) -> MemoryBroadcastBus:
    consumers = [
        EventHandlerConsumer(f"consumer-{number}", {Taken: handler})
        for number, handler in enumerate(handlers)
    ]
    return MemoryBroadcastBus([each.subscribe(TOPIC) for each in consumers])


@pytest.fixture
def _no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold senders back for as long as it takes."""
    monkeypatch.setattr(broadcast, "_LONGEST_HOLD", 3_600.0)


async def sent(bus: MemoryBroadcastBus, accepted: list[int]) -> None:
    for number in range(3 * FEW):
        await bus.send(TOPIC, Taken(number))
        accepted.append(number)


@pytest.mark.usefixtures("_no_end")
async def test_who_sends_is_held_back_until_the_slow_one_has_caught_up() -> None:
    gate, handled, accepted = asyncio.Event(), list[int](), list[int]()

    async def slow(event: Taken) -> None:
        await gate.wait()
        handled.append(event.number)

    async def quick(event: Taken) -> None:
        seen.append(event.number)

    seen: list[int] = []
    async with bus_with(quick, slow) as bus:
        sending = asyncio.create_task(sent(bus, accepted))
        await eventually(lambda: len(seen) == FEW)
        for _ in range(100):
            await asyncio.sleep(0)
        assert (len(seen), len(accepted)) == (FEW, FEW - 1)
        gate.set()
        await sending
        await eventually(lambda: len(handled) == 3 * FEW)
    assert handled == seen == accepted


@pytest.mark.usefixtures("_no_end")
async def test_who_sends_goes_on_when_the_slow_one_has_left() -> None:
    accepted: list[int] = []

    async def stuck(event: Taken) -> None:
        await asyncio.Event().wait()

    async with bus_with(stuck) as bus:
        sending = asyncio.create_task(sent(bus, accepted))
        await eventually(lambda: len(accepted) == FEW - 1)
        leaving = asyncio.create_task(bus.unregister(bus.registrations[0]))
        await sending
        assert len(accepted) == 3 * FEW
        await bus.shutdown(grace=0)
        await asyncio.wait([leaving])


@pytest.mark.usefixtures("_no_end")
async def test_a_handler_that_sends_is_not_held_back() -> None:
    handled: list[int] = []

    async def spread(event: Taken) -> None:
        handled.append(event.number)
        if event.number == 0:
            for number in range(1, 2 * FEW):
                await bus.send(TOPIC, Taken(number))

    async with bus_with(spread) as bus:
        await bus.send(TOPIC, Taken(0))
        await eventually(lambda: handled == list(range(2 * FEW)))


async def test_one_that_never_catches_up_holds_nobody_back_for_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broadcast, "_LONGEST_HOLD", 0.001)
    accepted: list[int] = []

    async def stuck(event: Taken) -> None:
        await asyncio.Event().wait()

    async with bus_with(stuck) as bus:
        await sent(bus, accepted)
        assert len(accepted) == 3 * FEW
        await bus.shutdown(grace=0)
