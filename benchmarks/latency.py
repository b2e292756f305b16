"""One event at a time: from the call that sends it until its handler runs, and until confirmed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from functools import partial
from statistics import quantiles

from benchmarks.brokers import BROKERS, SIZES
from benchmarks.contestants import Contestant
from benchmarks.measuring import Case, Measured, own_name
from benchmarks.workload import Order, make

WARMUP = 10


async def measure(contestant: Contestant, events: int) -> Measured:
    began = 0.0
    handled = asyncio.Event()

    async def handle(_: Order) -> None:
        arrived.append(time.perf_counter() - began)
        handled.set()

    arrived: list[float] = []
    confirmed: list[float] = []
    async with (
        contestant.at(own_name()) as place,
        contestant.consuming(place, handle),
        contestant.publishing(place) as send,
    ):
        for order in make(WARMUP + events, contestant.event):
            handled.clear()
            began = time.perf_counter()
            await send([order], 1)
            confirmed.append(time.perf_counter() - began)
            await handled.wait()
    return {
        "handled ms p50": percentile(arrived[WARMUP:], 50),
        "p99": percentile(arrived[WARMUP:], 99),
        "confirmed ms p50": percentile(confirmed[WARMUP:], 50),
    }


def percentile(seconds: list[float], percent: int) -> float:
    return 1_000 * quantiles(seconds, n=100)[percent - 1]


def cases() -> Iterator[Case]:
    for broker, contestants in BROKERS.items():
        for contestant in contestants:
            if not contestant.takes_part("latency"):
                continue
            if "send by send" not in contestant.name and "by hand" not in contestant.name:
                yield Case(
                    broker, contestant.name, partial(measure, contestant), SIZES[broker].one_by_one
                )
