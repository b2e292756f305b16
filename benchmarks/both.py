"""Send and receive in one process, 100 in flight: the time from the first send to the last ack."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.brokers import BROKERS, SIZES
from benchmarks.contestants import Contestant
from benchmarks.measuring import Case, Measured, own_name
from benchmarks.workload import Counter, make


async def measure(contestant: Contestant, events: int) -> Measured:
    counter = Counter(events)
    async with (
        contestant.at(own_name()) as place,
        contestant.consuming(place, counter),
        contestant.publishing(place) as send,
    ):
        counter.watch.start()
        await send(make(events, contestant.event), 100)
        await counter.done.wait()
    return counter.watch.of(events)


def cases() -> Iterator[Case]:
    for broker, contestants in BROKERS.items():
        for contestant in contestants:
            if not contestant.takes_part("both"):
                continue
            yield Case(
                broker, contestant.name, partial(measure, contestant), SIZES[broker].many // 2
            )
