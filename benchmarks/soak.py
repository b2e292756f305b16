"""Run a bus for minutes at half of what it can do, with failures, and see that nothing grows.

    python -m benchmarks.soak [--minutes 10] [--bus "Redis Streams"] ...

Of all events one in 20 fails at its first attempt and one in 500 always, which is discarded from
the dead letters now and then; every 20 seconds all connections of the process are cut. Half way and
at the end memory, tasks, sockets, and what lies at the broker are compared; it exits with 1 if any
grew, or if an event was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import nats
import psutil  # type: ignore[import-untyped]
import redis.asyncio

from benchmarks.both import measure as measure_capacity
from benchmarks.brokers import BROKERS
from benchmarks.contestants.ours import CONSUMER, Ours
from benchmarks.contestants.rabbitmq import queues_of
from benchmarks.measuring import own_name
from benchmarks.servers import NATS, REDIS
from benchmarks.workload import Order, OrderPlaced, make
from events.errors import BatchSendError, BusUnavailableError, NoSuchDeadLetterError
from events.integration import RetryPolicy, Topic
from events.integration.implementation.base import TransportIntegrationEventBus

CAPACITY_EVENTS = 3_000
CUT_EVERY = 20.0
FAILS_ONCE, FAILS_ALWAYS = 20, 500
TICK = 0.1
CALM = 15.0  # seconds for what is under way to end before a look
MAY_GROW = {"MiB": 1.1}
SLACK = 3  # by which counts may grow; of what brokers trim now and then, by more
TRIMMED = {"entries": 200, "messages beside the topic": 200}


@dataclass
class Load:
    """What was sent, and its outcome. Events that were sent twice count once."""

    sent: set[int] = field(default_factory=set[int])
    handled: set[int] = field(default_factory=set[int])
    failed: set[int] = field(default_factory=set[int])
    discarded: int = 0
    unsure: int = 0

    async def handle(self, order: Order) -> None:
        number = order.number
        if number % FAILS_ALWAYS == 7:
            raise ValueError(number)
        if number % FAILS_ONCE == 3 and number not in self.failed:
            self.failed.add(number)
            raise ConnectionError(number)
        self.handled.add(number)

    @property
    def missing(self) -> set[int]:
        """Return what was accepted and not handled, but for what is to fail always."""
        return {n for n in self.sent - self.handled if n % FAILS_ALWAYS != 7}

    def forget(self) -> None:
        """Drop what is known to be done, or the bookkeeping would be what grows."""
        done = self.sent & self.handled
        self.sent -= done
        self.handled -= done
        self.failed -= done


async def send(bus: TransportIntegrationEventBus, topic: Topic, load: Load, rate: float) -> None:
    """Send at a steady rate; what the bus did not take is not sent again, and is no loss."""
    number, started = 0, time.monotonic()
    while True:
        due = int((time.monotonic() - started) * rate)
        events = [OrderPlaced(n, *_rest) for n in range(number, min(due, number + 1_000))]
        number += len(events)
        failures: dict[int, Any] = {}
        if events:
            try:
                await bus.send_many(topic, events)
            except BatchSendError as error:
                failures = dict(error.failures)
                load.unsure += len(failures)
        load.sent.update(each.number for at, each in enumerate(events) if at not in failures)
        if number >= due:
            await asyncio.sleep(TICK)


_first = next(make(1))
_rest = (_first.order, _first.placed_at, _first.total, _first.customer)


async def cut() -> None:
    """Cut this process's own connections, as a network does."""
    while True:
        await asyncio.sleep(CUT_EVERY)
        for connection in psutil.Process().net_connections("tcp"):
            if connection.raddr and connection.fd >= 0:
                with suppress(OSError), socket.socket(fileno=os.dup(connection.fd)) as each:
                    each.shutdown(socket.SHUT_RDWR)


async def discard(bus: TransportIntegrationEventBus, load: Load) -> None:
    while True:
        await asyncio.sleep(5)
        await discard_all(bus, load)


async def discard_all(bus: TransportIntegrationEventBus, load: Load) -> None:
    """Empty the dead letters; a cut connection puts it off."""
    with suppress(BusUnavailableError, NoSuchDeadLetterError):
        while letters := await bus.dead_letters(CONSUMER, limit=500):
            load.discarded += await bus.discard(CONSUMER, letters)


# --- what is looked at ------------------------------------------------------------------------


async def at_redis(place: str) -> dict[str, float]:
    async with redis.asyncio.Redis.from_url(REDIS) as client:
        keys = [key async for key in client.scan_iter(f"*{place}*", count=10_000)]
        return {"keys": len(keys), "entries": await client.xlen(place)}


async def at_nats(place: str) -> dict[str, float]:
    client = await nats.connect(NATS)
    try:
        streams = [each for each in await client.jetstream().streams_info() if place in str(each)]
    finally:
        await client.close()
    # The topic's own stream keeps everything, as configured.
    own = [each for each in streams if each.config.name != place]
    return {
        "streams": len(streams),
        "messages beside the topic": sum(s.state.messages for s in own),
    }


async def at_rabbitmq(place: str) -> dict[str, float]:
    found = await queues_of(place)
    return {"queues": len(found), "messages": sum(found.values())}


LOOKS: dict[str, Callable[[str], Awaitable[dict[str, float]]]] = {
    "RabbitMQ": at_rabbitmq,
    "NATS JetStream": at_nats,
    "Redis Streams": at_redis,
}


async def look(broker: str, place: str) -> dict[str, float]:
    gc.collect()
    process = psutil.Process()
    here = {
        "MiB": process.memory_info().rss / 2**20,
        "tasks": len(asyncio.all_tasks()),
        "sockets": len([each for each in process.net_connections("tcp") if each.raddr]),
        "files": process.num_fds(),
    }
    return here | await LOOKS[broker](place)


async def soak(broker: str, minutes: float) -> bool:
    """Run, print what was seen, and tell whether all is well."""
    contestant = BROKERS[broker][0]
    assert isinstance(contestant, Ours)
    capacity = (await measure_capacity(contestant, CAPACITY_EVENTS))["per second"]
    rate = capacity / 2
    print(
        f"\n{broker}: {capacity:,.0f} events/s at most, soaking at {rate:,.0f} for {minutes:g} min"
    )
    load, place = Load(), own_name()
    retry = RetryPolicy(attempts=3, delay=0.05, max_delay=1.0, in_place=0.01)
    async with contestant.at(place):
        registration = contestant.registration(place, load.handle)
        async with contestant.bus([registration], retry=retry) as bus:
            halves = [await _half(broker, place, bus, load, rate, 30 * minutes) for _ in range(2)]
    return _judge(load, *halves)


async def _half(
    broker: str,
    place: str,
    bus: TransportIntegrationEventBus,
    load: Load,
    rate: float,
    seconds: float,
) -> dict[str, float]:
    load.sent.clear()
    load.handled.clear()
    work = [
        asyncio.create_task(each)
        for each in (send(bus, Topic(place), load, rate), cut(), discard(bus, load), _tidy(load))
    ]
    done, _ = await asyncio.wait(work, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in work:
        task.cancel()
    await asyncio.wait(work)
    for task in done:
        task.result()
    try:
        async with asyncio.timeout(CALM * 4):
            while load.missing:
                await asyncio.sleep(TICK)
    except TimeoutError:
        pass
    await asyncio.sleep(CALM)
    await discard_all(bus, load)
    missing = load.missing
    if missing:
        print(f"  LOST {len(missing)} events that were accepted, such as {sorted(missing)[:5]}")
        load.unsure = -1
    load.forget()
    seen = await look(broker, place)
    print("  " + ", ".join(f"{name} {value:,.0f}" for name, value in seen.items()))
    return seen


async def _tidy(load: Load) -> None:
    while True:
        await asyncio.sleep(5)
        load.forget()


def _judge(load: Load, half: dict[str, float], end: dict[str, float]) -> bool:
    grown = [
        f"{name} grew from {half[name]:,.0f} to {value:,.0f}"
        for name, value in end.items()
        if value > half[name] * MAY_GROW.get(name, 1.0) + TRIMMED.get(name, SLACK)
    ]
    print(f"  {load.discarded:,} dead letters discarded; {'; '.join(grown) or 'nothing grew'}")
    return not grown and load.unsure >= 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--bus", action="append", choices=LOOKS, help="all of them if not given")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    well = [asyncio.run(soak(broker, options.minutes)) for broker in options.bus or LOOKS]
    sys.exit(0 if all(well) else 1)


if __name__ == "__main__":
    main()
