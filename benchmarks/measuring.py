"""Cases that are run in turns, and what is measured of them."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from math import nan
from statistics import median
from typing import Self, TypeAlias

TIMEOUT = 300  # seconds for one run of a case: one that hangs says which it is


class Stopwatch:
    """Time that passed, and CPU time of this process alone: brokers and databases are others."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self._started = (0.0, 0.0)

    def start(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        self.wall, self.cpu = wall - self._started[0], cpu - self._started[1]

    def __enter__(self) -> Self:
        gc.collect()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def of(self, events: int, **others: float) -> Measured:
        """Say what it means for so many events."""
        return {"per second": events / self.wall, "CPU µs": 1e6 * self.cpu / events, **others}


Measured: TypeAlias = dict[str, float]
"""Figures of one run by their names: "per second" counts up, all others count down."""

HIGHER_IS_BETTER = frozenset({"per second"})


@dataclass(frozen=True)
class Case:
    """One contestant at one piece of work. Those of a group do the same work, in turns."""

    group: str
    contestant: str
    run: Callable[[int], Awaitable[Measured]]
    events: int
    rounds: int | None = None  # fewer than asked for, where one takes long and tells enough
    uvloop: bool = False


@dataclass
class Figure:
    """What the rounds of a case gave."""

    group: str
    contestant: str
    events: int
    rounds: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def median(self, metric: str) -> float:
        return median(self.rounds[metric])

    def spread(self, metric: str) -> float:
        values = self.rounds[metric]
        return (max(values) - min(values)) / (median(values) or 1)


def ratio(ours: Figure, theirs: Figure, metric: str) -> float:
    """Compare round by round, as what disturbs the machine disturbs neighbours alike."""
    pairs = zip(ours.rounds[metric], theirs.rounds[metric], strict=False)
    found = [a / b for a, b in pairs if b]
    return median(found) if found else nan


def run(cases: Iterable[Case], rounds: int, scale: float = 1.0) -> list[Figure]:
    """Run all in turns, each in an event loop of its own."""
    cases = list(cases)
    figures = [Figure(case.group, case.contestant, _scaled(case, scale)) for case in cases]
    began = time.monotonic()
    # What all the others have imported is no contestant's own: the collector need not look at it.
    gc.collect()
    gc.freeze()
    for turn in range(rounds):
        for case, figure in zip(cases, figures, strict=True):
            if case.rounds is not None and turn >= case.rounds:
                continue
            gc.collect()
            for metric, value in _measured(case, figure.events).items():
                figure.rounds.setdefault(metric, []).append(value)
        took = time.monotonic() - began
        print(f"round {turn + 1} of {rounds} done after {took:.0f} s", file=sys.stderr)
    return figures


def _measured(case: Case, events: int) -> Measured:
    """Run once, and once more if it fails: on a busy machine a client's own deadline may pass."""
    try:
        return _run_once(case, events)
    except Exception as error:  # noqa: BLE001 - whatever a contestant raises
        print(f"AGAIN {case.group}: {case.contestant}: {error!r}", file=sys.stderr)
        return _run_once(case, events)


def _run_once(case: Case, events: int) -> Measured:
    factory = None
    if case.uvloop:
        import uvloop as loops  # noqa: PLC0415 - of CPython on POSIX alone

        factory = loops.new_event_loop

    async def work() -> Measured:
        async with asyncio.timeout(TIMEOUT):
            return await case.run(events)

    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(work())
    except Exception as error:
        error.add_note(f"in {case.group}: {case.contestant}")
        raise


def _scaled(case: Case, scale: float) -> int:
    return max(10, int(case.events * scale))


def own_name() -> str:
    """Return a name for what is made at brokers and databases that nobody else has."""
    return f"bench-{os.getpid()}-{next(_numbers)}"


_numbers = iter(range(1, sys.maxsize))
