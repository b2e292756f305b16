"""Publish one domain event, made before, and await its one or three handlers, each of which counts.

Nothing waits here, so that CPU time is what there is to see.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.contestants import domain, mediators
from benchmarks.contestants.domain import Contestant, Session
from benchmarks.measuring import Case, Measured, Stopwatch

HANDLER_COUNTS = (1, 3)
EVENTS = 20_000
SLOW = {"bubus": 200, "lato": 2_000, "pyventus": 2_000}


async def measure(contestant: Contestant, handlers: int, events: int) -> Measured:
    session = Session()
    async with contestant(handlers, session) as publish:
        await publish(events // 10)
        session.writes = 0
        with Stopwatch() as watch:
            await publish(events)
    assert session.writes == events * handlers
    return {"CPU µs": watch.of(events)["CPU µs"]}


def cases() -> Iterator[Case]:
    for handlers in HANDLER_COUNTS:
        for name, contestant in (domain.CONTESTANTS | mediators.CONTESTANTS).items():
            run = partial(measure, contestant, handlers)
            group = f"{handlers} handler{'s' * (handlers > 1)}"
            yield Case(group, name, run, SLOW.get(name, EVENTS))
