"""Sender and consumer with FastStream: as its documentation begins, and with durable settings.

The first is what its pages for RabbitMQ, for Redis Streams with a consumer group and for JetStream
show, nothing more. The second says what they say elsewhere a durable service needs: durable quorum
queues and persistent messages, a name for the consumer, acknowledgement that gives a failure back,
a bound for what is taken at once, and claiming from the dead.
"""

# The peer is in the benchmarks' environment alone, and not all of it is typed.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

from faststream import AckPolicy, FastStream
from faststream.nats import ConsumerConfig, NatsBroker
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue
from faststream.redis import RedisBroker, StreamSub

from benchmarks.faults.contestants.common import CONSUMER, TEXT, TOPIC, Orders

LEASE = 5  # seconds, as ours
DURABLE = "durable"

Subscribe: TypeAlias = Callable[[Callable[..., Any]], object]
Publish: TypeAlias = Callable[[dict[str, Any]], Awaitable[object]]


def _later(subscriber: Callable[[], Any]) -> Subscribe:
    """Make the subscriber with its handler alone: who only sends must not have one without."""

    def subscribe(handler: Callable[..., Any]) -> None:
        subscriber()(handler)

    return subscribe


def rabbitmq(orders: Orders) -> tuple[Any, Subscribe, Publish]:
    if orders.variant == DURABLE:
        broker = RabbitBroker(orders.url, default_channel=Channel(prefetch_count=2))
        queue = RabbitQueue(TOPIC, queue_type=QueueType.QUORUM, durable=True)
        subscriber = partial(broker.subscriber, queue, ack_policy=AckPolicy.NACK_ON_ERROR)
        publish = partial(broker.publish, queue=queue, persist=True, timeout=orders.timeout)
    else:
        broker = RabbitBroker(orders.url)
        subscriber = partial(broker.subscriber, TOPIC)
        publish = partial(broker.publish, queue=TOPIC, timeout=orders.timeout)
    return broker, _later(subscriber), publish


def redis(orders: Orders) -> tuple[Any, Subscribe, Publish]:
    broker = RedisBroker(orders.url)

    def subscribe(handler: Any) -> None:
        fresh = StreamSub(TOPIC, group=CONSUMER, consumer="1")
        if orders.variant == DURABLE:
            # Two subscribers, as one either claims or reads.
            claim = StreamSub(TOPIC, group=CONSUMER, consumer="1", min_idle_time=LEASE * 1000)
            policy = AckPolicy.NACK_ON_ERROR
            handler = broker.subscriber(stream=claim, ack_policy=policy)(handler)
            broker.subscriber(stream=fresh, ack_policy=policy)(handler)
        else:
            broker.subscriber(stream=fresh)(handler)

    return broker, subscribe, partial(broker.publish, stream=TOPIC)  # it takes no timeout


def nats(orders: Orders) -> tuple[Any, Subscribe, Publish]:
    broker = NatsBroker(orders.url)
    if orders.variant == DURABLE:
        subscriber = partial(
            broker.subscriber,
            TOPIC,
            stream=TOPIC,
            durable=CONSUMER,
            ack_policy=AckPolicy.NACK_ON_ERROR,
            config=ConsumerConfig(ack_wait=LEASE),
        )
    else:
        subscriber = partial(broker.subscriber, TOPIC, stream=TOPIC)
    publish = partial(broker.publish, subject=TOPIC, stream=TOPIC, timeout=orders.timeout)
    return broker, _later(subscriber), publish


BUSES = {"rabbitmq": rabbitmq, "redis": redis, "nats": nats}


async def consume(orders: Orders) -> None:
    broker, subscribe, _ = BUSES[orders.bus](orders)

    async def handle(body: dict[str, Any]) -> None:
        await orders.handle(body["number"])

    subscribe(handle)
    app = FastStream(broker, after_startup=[partial(orders.note, "ready")])
    await app.run()


async def send(orders: Orders) -> None:
    broker, _, publish = BUSES[orders.bus](orders)
    async with broker:
        orders.note("ready")
        await orders.send_all(lambda number: publish({"number": number, "text": TEXT}))
    orders.note("done")


async def operate(_: Orders) -> None:
    """Do nothing: it keeps no dead letters that could be sent back."""


def main() -> None:
    orders = Orders.read()
    asyncio.run({"consumer": consume, "sender": send, "operator": operate}[orders.role](orders))


if __name__ == "__main__":
    main()
