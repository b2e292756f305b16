"""What it costs to publish one domain event and have its handlers awaited, in CPU time.

    python -m benchmarks.dispatch [--events 20000] [--rounds 5]

All contestants do the same: one event, made beforehand, and one or three handlers that count it.
They run in the same process, in turns; see benchmarks/README.md for how to read the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TypeAlias

from blinker import Signal
from dishka import AsyncContainer, Provider, Scope, make_async_container

from events.domain import (
    DomainEvent,
    DomainEventDispatcher,
    DomainEventHandler,
    DomainEventHandlerRegistry,
    SimpleDomainEventHandlerFactory,
)
from events.domain.implementation.dishka import DomainEventImplementationProvider

RESULTS = Path(__file__).parent / "results" / "dispatch.json"
HANDLER_COUNTS = (1, 3)


@dataclass(frozen=True)
class OrderPlaced(DomainEvent):
    type = "order.placed"
    order: str
    customer: str
    cents: int


EVENT = OrderPlaced("c7b3d1a4-8a04-4a1e-9d43-0c2d1f6a7e55", "ada@example.org", 129_900)


class Session:
    """What handlers share in a unit of work; it counts what they did."""

    def __init__(self) -> None:
        self.writes = 0


class First(DomainEventHandler[OrderPlaced]):
    def __init__(self, session: Session) -> None:
        self.session = session

    async def handle(self, event: OrderPlaced) -> None:  # noqa: ARG002
        self.session.writes += 1


class Second(First):
    pass


class Third(First):
    pass


HANDLERS = (First, Second, Third)

Publish: TypeAlias = Callable[[int], Awaitable[None]]
Contestant: TypeAlias = Callable[[int, Session], AbstractAsyncContextManager[Publish]]


@asynccontextmanager
async def floor(handlers: int, session: Session) -> AsyncGenerator[Publish]:
    table = {OrderPlaced: [cls(session) for cls in HANDLERS[:handlers]]}

    async def publish_one(event: OrderPlaced) -> None:
        for handler in table[type(event)]:
            await handler.handle(event)

    async def publish(times: int) -> None:
        for _ in range(times):
            await publish_one(EVENT)

    yield publish


@asynccontextmanager
async def ours(handlers: int, session: Session) -> AsyncGenerator[Publish]:
    factory, registry = trivial(handlers, session)
    dispatcher = DomainEventDispatcher(factory, registry)

    async def publish(times: int) -> None:
        for _ in range(times):
            dispatcher.store_event(EVENT)
            await dispatcher.process()

    yield publish


@asynccontextmanager
async def ours_anew(handlers: int, session: Session) -> AsyncGenerator[Publish]:
    factory, registry = trivial(handlers, session)

    async def publish(times: int) -> None:
        for _ in range(times):
            async with DomainEventDispatcher(factory, registry) as dispatcher:
                dispatcher.store_event(EVENT)

    yield publish


@asynccontextmanager
async def blinker(handlers: int, session: Session) -> AsyncGenerator[Publish]:
    placed = Signal()
    made = [cls(session) for cls in HANDLERS[:handlers]]
    for handler in made:
        placed.connect(handler.handle)

    async def publish(times: int) -> None:
        for _ in range(times):
            await placed.send_async(EVENT)

    yield publish


@asynccontextmanager
async def ours_with_dishka(handlers: int, session: Session) -> AsyncGenerator[Publish]:
    async with container_with(handlers, session) as container, container() as request:
        dispatcher = await request.get(DomainEventDispatcher)

        async def publish(times: int) -> None:
            for _ in range(times):
                dispatcher.store_event(EVENT)
                await dispatcher.process()

        yield publish


@asynccontextmanager
async def ours_with_dishka_scopes(handlers: int, session: Session) -> AsyncGenerator[Publish]:
    async with container_with(handlers, session) as container:

        async def publish(times: int) -> None:
            for _ in range(times):
                async with container() as request:
                    dispatcher = await request.get(DomainEventDispatcher)
                    dispatcher.store_event(EVENT)
                    await dispatcher.process()

        yield publish


CONTESTANTS: dict[str, Contestant] = {
    "floor: dict look-up, sequential await": floor,
    "ours, trivial factory": ours,
    "ours, trivial factory, a dispatcher per event": ours_anew,
    "blinker send_async": blinker,
    "ours, dishka, open scope": ours_with_dishka,
    "ours, dishka, a scope per event": ours_with_dishka_scopes,
}


def trivial(
    handlers: int, session: Session
) -> tuple[SimpleDomainEventHandlerFactory, DomainEventHandlerRegistry]:
    chosen = HANDLERS[:handlers]
    factory = SimpleDomainEventHandlerFactory({cls: partial(cls, session) for cls in chosen})
    return factory, DomainEventHandlerRegistry({OrderPlaced: chosen})


@asynccontextmanager
async def container_with(handlers: int, session: Session) -> AsyncGenerator[AsyncContainer]:
    sessions = Provider(scope=Scope.REQUEST)
    sessions.provide(lambda: session, provides=Session)
    container = make_async_container(
        sessions,
        DomainEventImplementationProvider(),
        context={DomainEventHandlerRegistry: trivial(handlers, session)[1]},
    )
    yield container
    await container.close()


@dataclass
class Figure:
    """CPU microseconds per event."""

    contestant: str
    handlers: int
    rounds: list[float]

    @property
    def median(self) -> float:
        return median(self.rounds)

    @property
    def spread(self) -> float:
        return (max(self.rounds) - min(self.rounds)) / self.median


async def measure(figure: Figure, contestant: Contestant, events: int) -> None:
    session = Session()
    async with contestant(figure.handlers, session) as publish:
        await publish(events // 10)
        session.writes = 0
        gc.collect()
        started = time.process_time_ns()
        await publish(events)
        took = time.process_time_ns() - started
    if session.writes != events * figure.handlers:
        sys.exit(f"{figure.contestant}: {session.writes} handled of {events * figure.handlers}")
    figure.rounds.append(took / events / 1000)


async def run(events: int, rounds: int) -> list[Figure]:
    figures = [Figure(name, count, []) for count in HANDLER_COUNTS for name in CONTESTANTS]
    for turn in range(rounds):
        for figure in figures:
            await measure(figure, CONTESTANTS[figure.contestant], events)
        print(f"round {turn + 1} of {rounds} done", file=sys.stderr)
    return figures


def show(figures: list[Figure]) -> None:
    print(f"\n{'CPU µs per event':<48}{'median':>8}{'spread':>8}{'x floor':>9}{'x blinker':>11}")
    for count in HANDLER_COUNTS:
        print(f"--- {count} handler{'s' * (count > 1)}")
        here = {each.contestant: each for each in figures if each.handlers == count}
        base = here["floor: dict look-up, sequential await"].median
        peer = here["blinker send_async"].median
        for name, each in here.items():
            print(
                f"{name:<48}{each.median:>8.2f}{each.spread:>8.0%}"
                f"{each.median / base:>9.2f}{each.median / peer:>11.2f}"
            )


def save(figures: list[Figure], events: int) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    packages = ("integration-events", "blinker", "dishka")
    result = {
        "benchmark": "dispatch",
        "unit": "CPU microseconds per event",
        "events per round": events,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": {"cpus": os.cpu_count(), "architecture": platform.machine()},
        "versions": {name: version(name) for name in packages},
        "figures": [asdict(each) | {"median": each.median} for each in figures],
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten to {RESULTS.relative_to(Path(__file__).parents[1])}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dispatch")
    parser.add_argument("--events", type=int, default=20_000, help="per round and contestant")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    figures = asyncio.run(run(options.events, options.rounds))
    show(figures)
    save(figures, options.events)


if __name__ == "__main__":
    main()
