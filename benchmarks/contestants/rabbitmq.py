"""RabbitMQ: a durable quorum queue on a durable direct exchange, persistent, confirmed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, ClassVar, Unpack

import aio_pika
import pika  # type: ignore[import-untyped]
from fast_depends.msgspec import MsgSpecSerializer
from faststream.rabbit import Channel, ExchangeType, RabbitBroker, RabbitExchange, RabbitQueue
from pika.adapters.asyncio_connection import (  # type: ignore[import-untyped]
    AsyncioConnection,
)
from pika.spec import Basic  # type: ignore[import-untyped]

from benchmarks.contestants import PREFETCH, Contestant, decode, encode
from benchmarks.contestants.ours import CONSUMER, Ours, Registrations
from benchmarks.servers import RABBITMQ
from benchmarks.workload import Handle, Order, OrderPlaced, Send, in_flight
from events.integration.implementation.base import BusOptions
from events.integration.implementation.rabbitmq import RabbitMQIntegrationEventBus

KEY = OrderPlaced.type
QUORUM: dict[str, Any] = {"x-queue-type": "quorum"}


@asynccontextmanager
async def _channel() -> AsyncGenerator[aio_pika.abc.AbstractChannel]:
    async with await aio_pika.connect(RABBITMQ) as connection, connection.channel() as channel:
        yield channel


class OnRabbitMQ(Contestant):
    """A peer's place: exchange and queue by its name."""

    properties: ClassVar[dict[str, Any]] = {}  # of what a bare driver sends, besides the usual

    async def prepare(self, place: str) -> None:
        async with _channel() as channel:
            queue = await channel.declare_queue(place, durable=True, arguments=QUORUM)
            await channel.declare_exchange(place, aio_pika.ExchangeType.DIRECT, durable=True)
            await queue.bind(place, KEY)

    async def remove(self, place: str) -> None:
        async with _channel() as channel:
            await channel.exchange_delete(place)
            for queue in (place, *await queues_of(place)):
                await channel.queue_delete(queue)


async def queues_of(place: str) -> dict[str, int]:
    """Return our queues for a place that are there, each with how many messages wait in it."""
    main = f"{CONSUMER}@{place}"
    steps = ("1", "2", "3", "5", "7")
    tiers = [
        f":retry:{step}{zeros}{unit}"
        for step in steps
        for zeros in ("", "0", "00")
        for unit in ("ms", "s")
    ]
    found: dict[str, int] = {}
    async with await aio_pika.connect(RABBITMQ) as connection:
        for name in (
            main,
            f"{main}:quarantine",
            f"{CONSUMER}:dead",
            *(main + tier for tier in tiers),
        ):
            channel = await connection.channel()
            with suppress(aio_pika.exceptions.ChannelNotFoundEntity):
                queue = await channel.declare_queue(name, passive=True)
                found[name] = queue.declaration_result.message_count or 0
                await channel.close()
    return found


class OursOnRabbitMQ(Ours, OnRabbitMQ):
    prepare = Ours.prepare

    def bus(
        self, registrations: Registrations = (), **options: Unpack[BusOptions]
    ) -> RabbitMQIntegrationEventBus:
        return RabbitMQIntegrationEventBus(RABBITMQ, registrations, prefetch=PREFETCH, **options)


class OursOnRabbitMQOneByOne(OursOnRabbitMQ):
    name = "ours, send by send"
    many = False


# As ours sends them; the broker reads, stores and copies them.
HEADERS: dict[str, Any] = {
    "ce-specversion": "1.0",
    "ce-id": "019c1b7c-2f00-7a10-8000-5e2d0c6f1a34",
    "ce-source": "/bench/orders",
    "ce-type": KEY,
    "ce-time": "2026-11-26T04:55:00.125000Z",
    "ce-correlationid": "019c1b7c-2f00-7a10-8000-5e2d0c6f1a34",
    "ce-dataversion": "1",
}


class Pika(OnRabbitMQ):
    name = "pika AsyncioConnection"

    @asynccontextmanager
    async def publishing(self, place: str) -> AsyncGenerator[Send]:
        properties = pika.BasicProperties(
            delivery_mode=2, content_type="application/json", **self.properties
        )
        async with _pika_channel() as channel:
            unconfirmed: dict[int, None] = {}
            fewer = asyncio.Event()

            def confirmed(frame: Any) -> None:
                assert isinstance(frame.method, Basic.Ack)
                tag = frame.method.delivery_tag
                if frame.method.multiple:
                    for each in [each for each in unconfirmed if each <= tag]:
                        del unconfirmed[each]
                else:
                    del unconfirmed[tag]
                fewer.set()

            ready = asyncio.get_running_loop().create_future()
            channel.confirm_delivery(confirmed, callback=ready.set_result)
            await ready
            tag = 0

            async def send(orders: Iterable[Order], at_once: int) -> None:
                nonlocal tag
                for order in orders:
                    channel.basic_publish(place, KEY, encode(order), properties)
                    tag += 1
                    unconfirmed[tag] = None
                    while len(unconfirmed) >= at_once:
                        fewer.clear()
                        await fewer.wait()
                while unconfirmed:
                    fewer.clear()
                    await fewer.wait()

            yield send

    @asynccontextmanager
    async def consuming(self, place: str, handle: Handle) -> AsyncGenerator[None]:
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[None]] = set()
        async with _pika_channel() as channel:

            async def work(tag: int, body: bytes) -> None:
                await handle(decode(body))
                channel.basic_ack(tag)

            def received(_: Any, method: Any, __: Any, body: bytes) -> None:
                task = loop.create_task(work(method.delivery_tag, body))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

            ready = loop.create_future()
            channel.basic_qos(prefetch_count=PREFETCH, callback=ready.set_result)
            await ready
            channel.basic_consume(place, received)
            yield
            await asyncio.gather(*tasks)


class PikaWithHeaders(Pika):
    name = "pika, with our headers"
    only = ("publish", "latency")
    properties: ClassVar[dict[str, Any]] = {
        "headers": HEADERS, "message_id": HEADERS["ce-id"], "type": KEY,
    }  # fmt: skip


@asynccontextmanager
async def _pika_channel() -> AsyncGenerator[Any]:
    loop = asyncio.get_running_loop()
    opened, closed = loop.create_future(), loop.create_future()
    connection = AsyncioConnection(
        pika.URLParameters(RABBITMQ),
        on_open_callback=lambda each: each.channel(on_open_callback=opened.set_result),
        on_open_error_callback=lambda _, error: opened.set_exception(error),
        on_close_callback=lambda *_: closed.set_result(None),
    )
    channel = await opened
    yield channel
    connection.close()
    await closed


class AioPika(OnRabbitMQ):
    name = "aio-pika"

    @asynccontextmanager
    async def publishing(self, place: str) -> AsyncGenerator[Send]:
        async with _channel() as channel:
            exchange = await channel.get_exchange(place)

            async def send(order: Order) -> None:
                message = aio_pika.Message(
                    encode(order), delivery_mode=2, content_type="application/json"
                )
                await exchange.publish(message, KEY)

            yield lambda orders, at_once: in_flight(send, orders, at_once)

    filling = Pika.publishing

    @asynccontextmanager
    async def consuming(self, place: str, handle: Handle) -> AsyncGenerator[None]:
        async with _channel() as channel:
            await channel.set_qos(PREFETCH)
            queue = await channel.get_queue(place)

            async def received(message: aio_pika.abc.AbstractIncomingMessage) -> None:
                await handle(decode(message.body))
                await message.ack()

            tag = await queue.consume(received)
            yield
            await queue.cancel(tag)


class FastStreamOnRabbitMQ(OnRabbitMQ):
    name = "FastStream (msgspec)"

    def broker(self) -> RabbitBroker:
        return RabbitBroker(RABBITMQ, logger=None, serializer=MsgSpecSerializer())

    @asynccontextmanager
    async def publishing(self, place: str) -> AsyncGenerator[Send]:
        async with self.broker() as broker:
            exchange = RabbitExchange(place, type=ExchangeType.DIRECT, declare=False)

            async def send(order: Order) -> None:
                await broker.publish(order, exchange=exchange, routing_key=KEY, persist=True)

            yield lambda orders, at_once: in_flight(send, orders, at_once)

    filling = Pika.publishing

    @asynccontextmanager
    async def consuming(self, place: str, handle: Handle) -> AsyncGenerator[None]:
        async with self.broker() as broker:
            queue = RabbitQueue(place, declare=False, durable=True, arguments=QUORUM)

            @broker.subscriber(queue, channel=Channel(prefetch_count=PREFETCH))
            async def received(order: Order) -> None:
                await handle(order)

            await broker.start()
            yield


CONTESTANTS: tuple[Contestant, ...] = (
    OursOnRabbitMQ(),
    OursOnRabbitMQOneByOne(),
    Pika(),
    PikaWithHeaders(),
    AioPika(),
    FastStreamOnRabbitMQ(),
)
