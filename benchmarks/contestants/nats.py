"""NATS JetStream: a stream in a file, a durable consumer that pulls, each message acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Unpack

import nats
from fast_depends.msgspec import MsgSpecSerializer
from faststream.nats import JStream, NatsBroker, PullSub
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, StorageType
from nats.js.errors import NotFoundError

from benchmarks.contestants import PREFETCH, Contestant, decode, each, encode, meanwhile
from benchmarks.contestants.ours import CONSUMER, Ours, Registrations
from benchmarks.servers import NATS
from benchmarks.workload import Handle, Order, OrderPlaced, Send, in_flight
from events.integration.implementation.base import BusOptions
from events.integration.implementation.nats import NatsIntegrationEventBus

FETCH = 500  # what serves the driver best


@asynccontextmanager
async def _jetstream(pending: int = 10_000) -> AsyncGenerator[JetStreamContext]:
    client = await nats.connect(NATS)
    yield client.jetstream(publish_async_max_pending=pending)
    await client.close()


class OnNats(Contestant):
    async def prepare(self, place: str) -> None:
        async with _jetstream() as stream:
            await stream.add_stream(name=place, subjects=[f"{place}.>"], storage=StorageType.FILE)
            config = ConsumerConfig(
                durable_name=CONSUMER, ack_policy=AckPolicy.EXPLICIT, max_ack_pending=1000
            )
            await stream.add_consumer(place, config)

    async def remove(self, place: str) -> None:
        async with _jetstream() as stream:
            for each in (place, f"{place}@dead-letters", f"{place}@attempts"):
                with suppress(NotFoundError):
                    await stream.delete_stream(each)


class OursOnNats(Ours, OnNats):
    prepare = Ours.prepare

    def bus(
        self, registrations: Registrations = (), **options: Unpack[BusOptions]
    ) -> NatsIntegrationEventBus:
        prefix = registrations[0].topic.name if registrations else "bench"
        return NatsIntegrationEventBus(NATS, registrations, prefix=prefix, **options)


class OursOnNatsOneByOne(OursOnNats):
    name = "ours, send by send"
    many = False


class NatsPy(OnNats):
    name = "nats-py (publish_async, fetch 500)"
    at_once = True

    @asynccontextmanager
    async def publishing(self, place: str) -> AsyncGenerator[Send]:
        subject = f"{place}.{OrderPlaced.type}"
        async with _jetstream() as stream:

            async def send(orders: Iterable[Order], at_once: int) -> None:
                if at_once == 1:
                    await in_flight(lambda order: stream.publish(subject, encode(order)), orders, 1)
                    return
                acks: list[asyncio.Future[Any]] = []
                for order in orders:
                    acks.append(await stream.publish_async(subject, encode(order)))
                    if len(acks) == at_once:
                        await asyncio.gather(*acks)
                        acks.clear()
                await asyncio.gather(*acks)

            yield send

    @asynccontextmanager
    async def consuming(self, place: str, handle: Handle) -> AsyncGenerator[None]:
        async def received(message: Msg) -> None:
            await handle(decode(message.data))
            await message.ack()

        async with _jetstream() as stream:
            subscription = await stream.pull_subscribe_bind(CONSUMER, place)

            async def work() -> None:
                while True:
                    with suppress(NatsTimeoutError):
                        messages = await subscription.fetch(FETCH, timeout=1)
                        await each(messages, received, at_once=self.at_once)

            async with meanwhile(work()):
                yield


class NatsPyInTurn(NatsPy):
    name = "nats-py, one handler at a time"
    only = ("consume",)
    at_once = False


class FastStreamOnNats(OnNats):
    name = "FastStream (msgspec)"

    def broker(self) -> NatsBroker:
        return NatsBroker(NATS, logger=None, serializer=MsgSpecSerializer())

    @asynccontextmanager
    async def publishing(self, place: str) -> AsyncGenerator[Send]:
        subject = f"{place}.{OrderPlaced.type}"
        async with self.broker() as broker:

            async def send(order: Order) -> None:
                await broker.publish(order, subject, stream=place)

            yield lambda orders, at_once: in_flight(send, orders, at_once)

    filling = NatsPy.publishing

    @asynccontextmanager
    async def consuming(self, place: str, handle: Handle) -> AsyncGenerator[None]:
        async with self.broker() as broker:

            @broker.subscriber(
                f"{place}.>",
                stream=JStream(place, declare=False),
                durable=CONSUMER,
                config=ConsumerConfig(ack_policy=AckPolicy.EXPLICIT),
                pull_sub=PullSub(batch_size=PREFETCH),
            )
            async def received(order: Order) -> None:
                await handle(order)

            await broker.start()
            yield


CONTESTANTS: tuple[Contestant, ...] = (
    OursOnNats(),
    OursOnNatsOneByOne(),
    NatsPy(),
    NatsPyInTurn(),
    FastStreamOnNats(),
)
