"""Redis: pub/sub, which keeps nothing, and Streams with a consumer group."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import copy_context
from typing import Any, TypeAlias, Unpack

import msgspec
import redis.asyncio
from fast_depends.msgspec import MsgSpecSerializer
from faststream.redis import PubSub, RedisBroker, StreamSub

from benchmarks.contestants import PREFETCH, Contestant, decode, each, encode, meanwhile
from benchmarks.contestants.ours import CONSUMER, Ours, Registrations
from benchmarks.servers import REDIS
from benchmarks.workload import Handle, Order, OrderPlaced, Send, in_flight
from events.integration.implementation.base import BusOptions
from events.integration.implementation.redis import (
    RedisPubSubIntegrationEventBus,
    RedisStreamsIntegrationEventBus,
)

Entry: TypeAlias = tuple[bytes, dict[bytes, bytes]]

decode_envelope = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@asynccontextmanager
async def _client() -> AsyncGenerator[Any]:
    async with redis.asyncio.Redis.from_url(REDIS) as client:
        yield client


async def _piped(
    client: Any, add: Callable[[Any, Order], object], orders: Iterable[Order], at_once: int
) -> None:
    """Send so many with each round trip."""
    with_each = client.pipeline(transaction=False)
    for order in orders:
        await _awaited(add(with_each, order))
        if len(with_each) == at_once:
            await with_each.execute()
    if len(with_each):
        await with_each.execute()


async def _awaited(added: Any) -> None:
    if asyncio.iscoroutine(added):
        await added


# --- pub/sub ----------------------------------------------------------------------------------


class OursOnPubSub(Ours):
    def bus(
        self, registrations: Registrations = (), **options: Unpack[BusOptions]
    ) -> RedisPubSubIntegrationEventBus:
        return RedisPubSubIntegrationEventBus(REDIS, registrations, **options)


class OursOnPubSubOneByOne(OursOnPubSub):
    name = "ours, send by send"
    many = False


class RedisPyPubSub(Contestant):
    name = "redis-py (hiredis, pipelines)"
    at_once = True

    @asynccontextmanager
    async def publishing(self, place: str) -> AsyncGenerator[Send]:
        async with _client() as client:

            async def send(orders: Iterable[Order], at_once: int) -> None:
                if at_once == 1:
                    await in_flight(lambda order: client.publish(place, encode(order)), orders, 1)
                else:
                    await _piped(
                        client,
                        lambda pipe, order: pipe.publish(place, encode(order)),
                        orders,
                        at_once,
                    )

            yield send

    @asynccontextmanager
    async def consuming(self, place: str, handle: Handle) -> AsyncGenerator[None]:
        async with _client() as client, client.pubsub(ignore_subscribe_messages=True) as listener:
            await listener.subscribe(place)
            await listener.get_message(timeout=1)

            tasks: set[asyncio.Task[None]] = set()

            async def received(message: Any) -> None:
                await handle(self.read(message["data"]))

            async def work() -> None:
                async for message in listener.listen():
                    if not self.at_once:
                        await received(message)
                        continue
                    task = asyncio.create_task(received(message))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                    if len(tasks) == PREFETCH:
                        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

            async with meanwhile(work()):
                yield

    def read(self, data: bytes) -> Order:
        return decode(data)


class RedisPyPubSubInTurn(RedisPyPubSub):
    name = "redis-py, one handler at a time"
    only = ("consume",)
    at_once = False


class RedisPyPubSubWithHeaders(RedisPyPubSub):
    """Reads what ours sends: an envelope with the body in it, and the headers beside."""

    name = "redis-py, with our headers"
    only = ("consume",)
    event = OrderPlaced

    @asynccontextmanager
    async def publishing(self, place: str) -> AsyncGenerator[Send]:
        async with OursOnPubSub().publishing(place) as send:
            yield send

    def read(self, data: bytes) -> Order:
        return decode(decode_envelope(data)["data"])


class FastStreamOnRedis(Contestant):
    """`pipelines` have to be made by hand there, and show what they bring."""

    pipelines = False

    def broker(self) -> RedisBroker:
        return RedisBroker(REDIS, logger=None, serializer=MsgSpecSerializer())

    def where(self, place: str) -> dict[str, Any]:
        raise NotImplementedError

    @asynccontextmanager
    async def publishing(self, place: str) -> AsyncGenerator[Send]:
        where = self.where(place)
        async with self.broker() as broker, _client() as client:

            async def send(orders: Iterable[Order], at_once: int) -> None:
                if self.pipelines and at_once > 1:
                    await _piped(
                        client,
                        lambda pipe, order: broker.publish(order, pipeline=pipe, **where),
                        orders,
                        at_once,
                    )
                else:
                    await in_flight(lambda order: broker.publish(order, **where), orders, at_once)

            yield send

    def subscribed(self, place: str) -> dict[str, Any]:
        raise NotImplementedError

    @asynccontextmanager
    async def consuming(self, place: str, handle: Handle) -> AsyncGenerator[None]:
        async with self.broker() as broker:

            @broker.subscriber(**self.subscribed(place))
            async def received(order: Order) -> None:
                await handle(order)

            await broker.start()
            yield


class FastStreamOnPubSub(FastStreamOnRedis):
    name = "FastStream (msgspec)"

    def where(self, place: str) -> dict[str, Any]:
        return {"channel": place}

    def subscribed(self, place: str) -> dict[str, Any]:
        return {"channel": PubSub(place)}


class FastStreamOnPubSubPiped(FastStreamOnPubSub):
    name = "FastStream (msgspec), pipelines by hand"
    pipelines = True


PUBSUB: tuple[Contestant, ...] = (
    OursOnPubSub(),
    OursOnPubSubOneByOne(),
    RedisPyPubSub(),
    RedisPyPubSubInTurn(),
    RedisPyPubSubWithHeaders(),
    FastStreamOnPubSub(),
    FastStreamOnPubSubPiped(),
)


# --- Streams ----------------------------------------------------------------------------------


class OnStreams(Contestant):
    async def prepare(self, place: str) -> None:
        async with _client() as client:
            await client.xgroup_create(place, CONSUMER, id="0", mkstream=True)

    async def remove(self, place: str) -> None:
        async with _client() as client:
            own = [key async for key in client.scan_iter(f"events:{{{place}}}:*", count=1000)]
            await client.delete(place, f"events:{{{CONSUMER}}}:topics", *own)


class OursOnStreams(Ours, OnStreams):
    prepare = Ours.prepare

    def bus(
        self, registrations: Registrations = (), **options: Unpack[BusOptions]
    ) -> RedisStreamsIntegrationEventBus:
        return RedisStreamsIntegrationEventBus(REDIS, registrations, **options)


class OursOnStreamsOneByOne(OursOnStreams):
    name = "ours, send by send"
    many = False


class RedisPyStreams(OnStreams):
    name = "redis-py (hiredis, one XACK a batch)"
    at_once = True

    @asynccontextmanager
    async def publishing(self, place: str) -> AsyncGenerator[Send]:
        async with _client() as client:

            async def send(orders: Iterable[Order], at_once: int) -> None:
                if at_once == 1:
                    await in_flight(
                        lambda order: client.xadd(place, {"data": encode(order)}), orders, 1
                    )
                else:
                    await _piped(
                        client,
                        lambda pipe, order: pipe.xadd(place, {"data": encode(order)}),
                        orders,
                        at_once,
                    )

            yield send

    @asynccontextmanager
    async def consuming(self, place: str, handle: Handle) -> AsyncGenerator[None]:
        async with _client() as client:

            async def work() -> None:
                done: list[bytes] = []
                while True:
                    with_acks = client.pipeline(transaction=False)
                    if done:
                        with_acks.xack(place, CONSUMER, *done)
                    with_acks.xreadgroup(
                        CONSUMER, "me", {place: ">"}, count=PREFETCH, block=1 if not done else None
                    )
                    entries = (await with_acks.execute())[-1]
                    entries = (
                        entries[0][1]
                        if isinstance(entries, list) and entries
                        else _entries(entries)
                    )
                    await self.handle_all(entries, handle)
                    done = [entry for entry, _ in entries]

            async with meanwhile(work()):
                yield

    async def handle_all(self, entries: Sequence[Entry], handle: Handle) -> None:
        async def received(entry: Entry) -> None:
            await handle(self.read(entry[1]))

        await each(entries, received, at_once=self.at_once)

    def read(self, fields: dict[bytes, bytes]) -> Order:
        return decode(fields[b"data"])


class RedisPyStreamsInTurn(RedisPyStreams):
    name = "redis-py, one handler at a time"
    only = ("consume",)
    at_once = False


class RedisPyStreamsWithHeaders(RedisPyStreams):
    """Reads what ours sends: a field for the body, and one for each header."""

    name = "redis-py, with our headers"
    only = ("consume",)
    event = OrderPlaced

    async def prepare(self, place: str) -> None:
        await OursOnStreams().prepare(place)

    def filling(self, place: str) -> AbstractAsyncContextManager[Send]:
        return OursOnStreams().publishing(place)

    def read(self, fields: dict[bytes, bytes]) -> Order:
        body = fields.pop(b"data")
        _ = {name.decode(): value.decode() for name, value in fields.items()}
        return decode(body)


class RedisPyStreamsAsPromised(RedisPyStreamsWithHeaders):
    """Adds a context for each handler and a future with its outcome, and nothing more."""

    name = "redis-py, our headers, contexts, outcomes"

    async def handle_all(self, entries: Sequence[Entry], handle: Handle) -> None:
        loop, context = asyncio.get_running_loop(), copy_context()

        async def received(fields: dict[bytes, bytes], outcome: asyncio.Future[None]) -> None:
            await handle(self.read(fields))
            outcome.set_result(None)

        outcomes = [loop.create_future() for _ in entries]
        _running = [  # or nobody would hold them
            loop.create_task(received(fields, outcome), context=context.copy())
            for (_, fields), outcome in zip(entries, outcomes, strict=True)
        ]
        await asyncio.gather(*outcomes)


def _entries(answer: Any) -> Sequence[Entry]:
    """Read an answer as RESP3 gives it."""
    return next(iter(answer.values()))[0] if answer else ()


class FastStreamOnStreams(FastStreamOnRedis, OnStreams):
    name = "FastStream (msgspec)"

    def where(self, place: str) -> dict[str, Any]:
        return {"stream": place}

    @asynccontextmanager
    async def filling(self, place: str) -> AsyncGenerator[Send]:
        async with FastStreamOnStreamsPiped().publishing(place) as send:
            yield send

    def subscribed(self, place: str) -> dict[str, Any]:
        stream = StreamSub(place, group=CONSUMER, consumer="me", max_records=PREFETCH)
        return {"stream": stream}


class FastStreamOnStreamsPiped(FastStreamOnStreams):
    name = "FastStream (msgspec), pipelines by hand"
    pipelines = True


STREAMS: tuple[Contestant, ...] = (
    OursOnStreams(),
    OursOnStreamsOneByOne(),
    RedisPyStreams(),
    RedisPyStreamsInTurn(),
    RedisPyStreamsWithHeaders(),
    RedisPyStreamsAsPromised(),
    FastStreamOnStreams(),
    FastStreamOnStreamsPiped(),
)
