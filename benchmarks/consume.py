"""Receive: decode, await the handler, acknowledge; from what was there before.

Counted from the thousandth event that is handled to the last, so connecting is not part of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import redis.asyncio

from benchmarks.brokers import BROKERS, SIZES
from benchmarks.contestants import Contestant
from benchmarks.measuring import Case, Measured, own_name
from benchmarks.servers import REDIS
from benchmarks.workload import Counter, make

SKIPPED = 1_000  # two batches of the largest
LONGER = 3  # than sending: a tenth of a second says more of the garbage collector than of anybody
FLOOD = "for _ = 1, ARGV[1] do redis.call('PUBLISH', KEYS[1], ARGV[2]) end"


async def from_queue(contestant: Contestant, events: int) -> Measured:
    counter = Counter(events, skip=SKIPPED)
    async with contestant.at(own_name()) as place:
        async with contestant.filling(place) as send:
            await send(make(counter.count, contestant.event), 1_000)
        async with contestant.consuming(place, counter):
            await counter.done.wait()
    return counter.watch.of(events)


async def from_channel(contestant: Contestant, events: int) -> Measured:
    """Have the server itself send, as often as need be, what the contestant sends once."""
    counter = Counter(events, skip=SKIPPED)
    place = own_name()
    client: Any
    async with redis.asyncio.Redis.from_url(REDIS) as client:
        async with client.pubsub(ignore_subscribe_messages=True) as listener:
            await listener.subscribe(place)
            await listener.get_message(timeout=1)
            async with contestant.publishing(place) as send:
                await send(make(1, contestant.event), 1)
            while (message := await listener.get_message(timeout=5)) is None:
                pass
        async with contestant.consuming(place, counter):
            await client.eval(FLOOD, 1, place, counter.count, message["data"])
            await counter.done.wait()
    return counter.watch.of(events)


def cases() -> Iterator[Case]:
    for broker, contestants in BROKERS.items():
        run = from_queue if SIZES[broker].keeps else from_channel
        for contestant in contestants:
            if not contestant.takes_part("consume"):
                continue
            if "send by send" not in contestant.name and "by hand" not in contestant.name:
                events = LONGER * SIZES[broker].many
                yield Case(broker, contestant.name, partial(run, contestant), events)
