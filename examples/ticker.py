"""One consumer on a broker of your choice: `python -m examples.ticker amqp://guest:guest@localhost/`.

It sends an event every second and prints what arrives. Every fifth fails twice before it is done.
Stop and start the broker meanwhile, start a second one beside it, press Ctrl-C at any moment.
"""

import argparse
import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from events.errors import BusError
from events.integration import (
    EventHandlerConsumer,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    RetryPolicy,
    Topic,
    current_delivery,
)
from events.integration.implementation.base import TransportIntegrationEventBus
from events.memory import MemoryBus
from events.nats import NATSBus
from events.rabbitmq import RabbitMQBus
from events.redis import RedisStreamsBus

TICKS = Topic("examples-ticks")


@dataclass(frozen=True)
class TickedV1(IntegrationEvent):
    type = "examples.ticked"
    version = 1
    number: int


async def show(event: TickedV1) -> None:
    delivery = current_delivery()
    attempt = delivery.attempt if delivery else 1
    if event.number % 5 == 0 and attempt < 3:
        raise RuntimeError(f"tick {event.number} is not to be had yet")
    print(f"tick {event.number}, attempt {attempt}", flush=True)


Registrations = Sequence[IntegrationEventBusRegistration]
BUSES: dict[str, Callable[[str, Registrations], TransportIntegrationEventBus]] = {
    "amqp": RabbitMQBus,
    "amqps": RabbitMQBus,
    "redis": RedisStreamsBus,
    "rediss": RedisStreamsBus,
    "nats": NATSBus,
    "memory": lambda _, registrations: MemoryBus(registrations),
}


async def tick(bus: TransportIntegrationEventBus) -> None:
    number = 0
    while True:
        await asyncio.sleep(1)
        if not bus.health().started:  # `run` starts it, and stops it in the end
            continue
        number += 1
        try:
            await bus.send(TICKS, TickedV1(number))
        except BusError as error:
            logging.getLogger("examples.ticker").warning("tick %d: %s", number, error)


async def serve(url: str) -> None:
    consumer = EventHandlerConsumer("examples-ticker", {TickedV1: show})
    registration = consumer.subscribe(TICKS, retry=RetryPolicy(delay=0.3))
    bus = BUSES[urlsplit(url).scheme](url, [registration])
    ticking = asyncio.create_task(tick(bus))
    try:
        await bus.run()
    finally:
        ticking.cancel()
        with suppress(asyncio.CancelledError):
            await ticking


def main() -> None:
    parser = argparse.ArgumentParser(description="Send an event every second and receive it.")
    parser.add_argument("url", nargs="?", default="memory:", help="amqp://, redis://, nats://")
    url: str = parser.parse_args().url
    if urlsplit(url).scheme not in BUSES:
        parser.error(f"{url!r} begins with none of {', '.join(BUSES)}")
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s")
    try:
        asyncio.run(serve(url))
    except BusError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
