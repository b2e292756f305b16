"""How cost grows: registrations, event types, handlers at once, size of bodies, processes.

Each group is one question, and its contestants are the sizes. What a handler does is nothing, but
where there are several at once: there each sleeps for a while, as handlers do that wait.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from dataclasses import dataclass, make_dataclass
from functools import partial
from typing import Any, cast

from benchmarks.brokers import BROKERS, SIZES
from benchmarks.contestants.domain import EVENT, HANDLERS, Session
from benchmarks.contestants.domain import OrderPlaced as DomainOrderPlaced
from benchmarks.contestants.memory import OursInMemory
from benchmarks.contestants.ours import Ours, ignore
from benchmarks.contestants.rabbitmq import OursOnRabbitMQ
from benchmarks.measuring import Case, Measured, Stopwatch, own_name
from benchmarks.workload import Counter, Order, make
from events.domain import DomainEvent, DomainEventDispatcher, DomainEventHandlerRegistry
from events.domain import SimpleDomainEventHandlerFactory as Factory
from events.integration import (
    EventHandlerConsumer,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    Topic,
)

HANDLER_SECONDS = 0.002


async def domain_registrations(count: int, events: int) -> Measured:
    """Dispatch one event where `count` others have handlers as well."""
    session = Session()
    table: dict[type[DomainEvent], Any] = {
        cast(
            "type[DomainEvent]", type(f"Other{n}", (DomainEvent,), {"type": f"other.{n}"})
        ): HANDLERS[:1]
        for n in range(count - 1)
    }
    table[DomainOrderPlaced] = HANDLERS[:1]
    factory = Factory(
        {HANDLERS[0]: partial(HANDLERS[0], session)}, DomainEventHandlerRegistry(table)
    )
    dispatcher = DomainEventDispatcher(factory)
    with Stopwatch() as watch:
        for _ in range(events):
            dispatcher.store_event(EVENT)
            await dispatcher.process()
    return {"CPU µs": watch.of(events)["CPU µs"]}


async def registrations(count: int, events: int) -> Measured:
    """Send to one of `count` consumers, each of a topic of its own."""
    contestant = OursInMemory()
    places = [own_name() for _ in range(count)]
    counter = Counter(events)
    all_of_them = [
        contestant.registration(place, counter if place is places[-1] else ignore)
        for place in places
    ]
    async with contestant.bus(all_of_them):
        return await _send_and_handle(contestant, places[-1], counter, events)


async def _send_and_handle(contestant: Ours, place: str, counter: Counter, events: int) -> Measured:
    async with contestant.publishing(place) as send:
        counter.watch.start()
        await send(make(events, contestant.event), 100)
        await counter.done.wait()
    return counter.watch.of(events)


async def event_types(count: int, events: int) -> Measured:
    """Send events of `count` types in turns to one consumer of all of them."""
    classes = _classes(count)
    handled, done = 0, asyncio.Event()

    async def handle(_: Any) -> None:
        nonlocal handled
        handled += 1
        if handled == events:
            done.set()

    consumer = EventHandlerConsumer("bench", dict.fromkeys(classes, handle))
    topic = Topic(own_name())
    registration = IntegrationEventBusRegistration(consumer, topic, classes, concurrency=100)
    async with OursInMemory().bus([registration]) as bus:
        for each in classes:  # what is made for a class at its first event
            await bus.send(topic, cast("Any", each)(0))
        await bus.broker.quiet()
        handled = 0
        with Stopwatch() as watch:
            for number in range(events):
                await bus.send(topic, cast("Any", classes[number % count])(number))
            await done.wait()
    return watch.of(events)


_known: list[type[IntegrationEvent]] = []


def _classes(count: int) -> list[type[IntegrationEvent]]:
    while len(_known) < count:
        number = len(_known)
        made = make_dataclass(
            f"Scaled{number}",
            [("number", int)],
            bases=(IntegrationEvent,),
            namespace={"type": f"scaled.{number}", "version": 1},
        )
        _known.append(made)
    return _known[:count]


async def handlers_at_once(contestant: Ours, concurrency: int, events: int) -> Measured:
    """Handle what is there with handlers that wait for 2 ms each."""
    counter = Counter(events, skip=concurrency)

    async def handle(order: Order) -> None:
        await asyncio.sleep(HANDLER_SECONDS)
        await counter(order)

    async with contestant.at(own_name()) as place:
        async with contestant.filling(place) as send:
            await send(make(counter.count, contestant.event), 1_000)
        async with contestant.bus([contestant.registration(place, handle, concurrency)]):
            await counter.done.wait()
    return counter.watch.of(events)


@dataclass(frozen=True)
class Document(IntegrationEvent):
    type = "document"
    version = 1
    text: str


async def bodies(contestant: Ours, size: int, events: int) -> Measured:
    """Send and handle events with so much text in them."""
    handled, done = 0, asyncio.Event()

    async def handle(_: Document) -> None:
        nonlocal handled
        handled += 1
        if handled == events:
            done.set()

    async with contestant.at(own_name()) as place:
        topic = Topic(place)
        consumer = EventHandlerConsumer("bench", {Document: handle})
        registration = IntegrationEventBusRegistration(consumer, topic, [Document], concurrency=100)
        async with contestant.bus([registration]) as bus:
            with Stopwatch() as watch:
                for start in range(0, events, 100):
                    count = min(100, events - start)
                    await bus.send_many(topic, [Document("x" * size) for _ in range(count)])
                await done.wait()
    return watch.of(events)


async def processes(broker: str, count: int, events: int) -> Measured:
    """Have so many processes of one consumer name empty a queue."""
    contestant = BROKERS[broker][0]
    async with contestant.at(own_name()) as place:
        async with contestant.filling(place) as send:
            await send(make(events, contestant.event), 1_000)
        children = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", "benchmarks.scaling", broker, place, stdout=PIPE
            )
            for _ in range(count)
        ]
        outputs = [await child.communicate() for child in children]
    reports = [json.loads(output) for output, _ in outputs]
    took = max(each["last"] for each in reports) - min(each["first"] for each in reports)
    handled = sum(each["handled"] for each in reports)
    assert handled >= events
    shares = sorted(each["handled"] / handled for each in reports)
    return {"per second": handled / took, "least share": shares[0]}


async def _consume(broker: str, place: str) -> None:
    """Be one of the processes: consume until nothing has come for a second."""
    report = {"first": 0.0, "last": 0.0, "handled": 0}

    async def handle(_: Order) -> None:
        report["last"] = time.monotonic()
        report["first"] = report["first"] or report["last"]
        report["handled"] += 1

    async with BROKERS[broker][0].consuming(place, handle):
        started = time.monotonic()
        while time.monotonic() - (report["last"] or started + 4) < 1:
            await asyncio.sleep(0.1)
    if not report["handled"]:
        report["first"] = report["last"] = started
    print(json.dumps(report))


def cases() -> Iterator[Case]:
    for count in (1, 10, 100, 1_000):
        yield Case(
            "registrations, domain", f"{count:,}", partial(domain_registrations, count), 20_000, 3
        )
    for count in (1, 10, 100, 1_000):
        yield Case(
            "registrations, memory bus", f"{count:,}", partial(registrations, count), 5_000, 3
        )
    for count in (1, 10, 100, 1_000):
        yield Case("event types, memory bus", f"{count:,}", partial(event_types, count), 5_000, 3)
    on: dict[str, Ours] = {"memory bus": OursInMemory(), "RabbitMQ": OursOnRabbitMQ()}
    for name, contestant in on.items():
        for count in (1, 4, 16, 64):
            run = partial(handlers_at_once, contestant, count)
            yield Case(
                f"handlers at once, {name}", f"{count}", run, 400 if count == 1 else 1_500, 3
            )
    for name, contestant in on.items():
        for size in (100, 1_000, 10_000, 100_000):
            run = partial(bodies, contestant, size)
            yield Case(f"bytes of a body, {name}", f"{size:,}", run, 1_000, 3)
    for broker in ("RabbitMQ", "NATS JetStream", "Redis Streams"):
        for count in (1, 2, 4):
            run = partial(processes, broker, count)
            yield Case(f"processes, {broker}", f"{count}", run, 4 * SIZES[broker].many, 2)


if __name__ == "__main__":
    asyncio.run(_consume(sys.argv[1], sys.argv[2]))
