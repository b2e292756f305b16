"""What a bus costs that has 100 registrations and nothing to do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

from benchmarks.brokers import BROKERS
from benchmarks.contestants.ours import Ours, ignore
from benchmarks.measuring import Case, Measured, Stopwatch, own_name

REGISTRATIONS = 100
SECONDS = 10
SETTLING = 2.0  # seconds after the start, for what is done once


async def idle(broker: str, seconds: int) -> Measured:
    contestant = BROKERS[broker][0]
    assert isinstance(contestant, Ours)
    places = [own_name() for _ in range(REGISTRATIONS)]
    registrations = [contestant.registration(place, ignore) for place in places]
    try:
        async with contestant.bus(registrations, startup_timeout=120.0):
            await asyncio.sleep(SETTLING)
            with Stopwatch() as watch:
                await asyncio.sleep(seconds)
    finally:
        await asyncio.gather(*map(contestant.remove, places))
    return {"% of a core": 100 * watch.cpu / watch.wall}


def cases() -> Iterator[Case]:
    for broker in BROKERS:
        yield Case(
            broker, f"ours, {REGISTRATIONS} registrations", partial(idle, broker), SECONDS, 1
        )
