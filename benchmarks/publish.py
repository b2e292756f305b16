"""Send: make the event, encode it, have the broker confirm it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.brokers import BROKERS, SIZES
from benchmarks.contestants import Contestant
from benchmarks.measuring import Case, Measured, Stopwatch, own_name
from benchmarks.workload import make


async def measure(contestant: Contestant, at_once: int, events: int) -> Measured:
    async with contestant.at(own_name()) as place, contestant.publishing(place) as send:
        await send(make(min(at_once, events), contestant.event), at_once)
        with Stopwatch() as watch:
            await send(make(events, contestant.event), at_once)
    return watch.of(events)


def cases() -> Iterator[Case]:
    for broker, contestants in BROKERS.items():
        for at_once in SIZES[broker].in_flight:
            events = SIZES[broker].one_by_one if at_once == 1 else SIZES[broker].many
            for contestant in contestants:
                if not contestant.takes_part("publish"):
                    continue
                # With one at a time, these do what another one does.
                if at_once == 1 and (
                    "send by send" in contestant.name or "by hand" in contestant.name
                ):
                    continue
                group = f"{broker}, {'one at a time' if at_once == 1 else f'{at_once:,} in flight'}"
                yield Case(group, contestant.name, partial(measure, contestant, at_once), events)
