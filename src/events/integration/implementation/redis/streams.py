"""The durable bus on Redis: a topic is a stream, a consumer name is a consumer group.

What is promised is as durable as the server: with `appendonly yes` and `appendfsync always` an
accepted event survives the server's crash, with Redis's defaults the last second may be lost, and
with persistence off all of it. Needs Redis 6.2 or newer. See `_entries` for the keys, `_scripts`
for what happens in one step, `_group` for what processes of one consumer name do for each other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Literal, Unpack

from events.errors import BusUnavailableError, InvalidTopologyError
from events.integration.brokering.urls import masked
from events.integration.health import Backlog
from events.integration.implementation.base import BusOptions, TransportIntegrationEventBus
from events.integration.implementation.redis._connecting import (
    Connector,
    DisconnectedError,
    Redis,
    ReplyError,
    connector,
)
from events.integration.implementation.redis._dead_letters import StreamDeadLetters
from events.integration.implementation.redis._entries import Keys, fields_of, paused_key, topics_key
from events.integration.implementation.redis._group import GroupOptions, StreamConsumer
from events.integration.implementation.redis._link import Link
from events.integration.implementation.redis._sending import Sending
from events.integration.implementation.redis._tailing import tail_stream
from events.integration.message import Delivery, Message, Settlement
from events.integration.topology import IntegrationEventBusRegistration
from events.integration.transport import Deliver, Subscription, TransportFeatures

_OLDEST_SERVER = (6, 2)

logger = logging.getLogger("events.integration")


class RedisStreamsTransport:
    """A `Transport` to Redis Streams. The options are the bus's; times are in seconds."""

    system = "redis"
    features = TransportFeatures(
        durability="broker",
        delivery="group",
        before_first_start="waits",
        headers=True,
        delayed_retry=True,
        dead_letters=True,
        ordered=True,
    )

    def __init__(
        self,
        connector: Connector,
        name: str,
        *,
        group: GroupOptions,
        connect_timeout: float,
        send_timeout: float,
        max_length: int | None,
    ) -> None:
        self._connector = connector
        self._name = name
        self._group = group
        self._connect_timeout = connect_timeout
        self._send_timeout = send_timeout
        self._sending = Sending(name, send_timeout)
        self._bound: tuple[object, ...] = ()
        if max_length is not None:
            self._bound = ("MAXLEN", "~", max_length)
        self._open: Link | None = None

    @property
    def connected(self) -> bool:
        """See `Transport`."""
        return self._open is not None and self._open.is_up

    @property
    def error(self) -> str | None:
        """Return why it is not connected, or why something cannot be sent."""
        return None if self._open is None else self._open.reason or self._sending.error

    @property
    def dead_letters(self) -> StreamDeadLetters:
        """See `Transport`."""
        return StreamDeadLetters(self._link, self._name)

    @property
    def _link(self) -> Link:
        if self._open is None:
            raise BusUnavailableError(self._name, "it is closed")
        return self._open

    async def connect(self) -> None:
        """See `Transport`. Tries again until `connect_timeout` is over."""
        link = self._open = Link(self._connector, self._name, timeout=self._group.timeout)
        await link.open(self._connect_timeout)
        logger.info("%s is connected", self._name)
        await self._check_server(link)

    async def _check_server(self, link: Link) -> None:
        try:
            info = await self._info(link, "server")
            memory = await self._info(link, "memory")
        except DisconnectedError as error:
            raise BusUnavailableError(self._name, str(error)) from error
        version = info.get("redis_version")
        if version is not None and _numbers(version) < _OLDEST_SERVER:
            raise InvalidTopologyError(self._name, f"it needs Redis 6.2 or newer, not {version}")
        if info.get("redis_mode") == "cluster":
            raise InvalidTopologyError(self._name, "Redis Cluster is not supported")
        policy = memory.get("maxmemory_policy", "")
        if policy.startswith("allkeys-") and memory.get("maxmemory") != "0":
            logger.warning(
                "%s: when its memory is full, it evicts any key (maxmemory-policy %s): events, "
                "pending retries and dead letters would be lost; set noeviction or one of the "
                "volatile-* policies",
                self._name,
                policy,
            )

    async def _info(self, link: Link, section: str) -> dict[str, str]:
        try:
            lines = (await link.call("INFO", section)).decode().splitlines()
        except ReplyError:
            return {}  # it may be forbidden to ask
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def publish(self, message: Message) -> asyncio.Future[None]:
        """See `Transport`. What is published in one turn of the loop leaves together."""
        command = "XADD", message.topic, *self._bound, "*", *fields_of(message)
        return self._sending.send(self._link, message, *command)

    async def backlog(self, consumer: str, topics: Sequence[str]) -> Backlog:
        """See `BacklogSource`."""
        return await self.dead_letters.backlog(consumer, topics)

    async def paused(self, consumers: Collection[str]) -> frozenset[str]:
        """See `PauseStore`."""
        names = list(consumers)
        there = await asyncio.gather(*(self._asked("EXISTS", paused_key(name)) for name in names))
        return frozenset(name for name, found in zip(names, there, strict=True) if found)

    async def set_paused(self, consumer: str, *, paused: bool) -> bool:
        """See `PauseStore`."""
        key = paused_key(consumer)
        if paused:
            return bool(await self._asked("SETNX", key, int(time.time())))
        return bool(await self._asked("DEL", key))

    async def _asked(self, *command: object) -> Any:
        try:
            return await self._link.call(*command)
        except (ReplyError, DisconnectedError) as error:
            raise BusUnavailableError(self._name, str(error)) from error

    async def declare(self, subscription: Subscription) -> None:
        """See `PauseStore`."""
        consumer = StreamConsumer(self._link, self._connector, subscription, _never, self._group)
        await consumer.announce()

    async def check(self, subscription: Subscription) -> None:
        """See `TopologySource`."""
        keys = Keys(subscription.topic, subscription.consumer)
        wanted = dict.fromkeys((*keys.streams, keys.later, keys.dead), b"stream")
        wanted |= {keys.due: b"zset", topics_key(keys.group): b"set"}
        for key, kind in wanted.items():
            found = await self._asked("TYPE", key)
            if found not in {b"none", kind}:
                raise InvalidTopologyError(
                    f"Redis key {key!r}",
                    f"it holds a {found.decode()}, not a {kind.decode()}: rename or remove it, or "
                    f"use another name",
                )

    async def subscribe(self, subscription: Subscription, deliver: Deliver) -> StreamConsumer:
        """See `Transport`."""
        consumer = StreamConsumer(self._link, self._connector, subscription, deliver, self._group)
        try:
            await consumer.open()
        except BaseException:
            await consumer.close()
            raise
        return consumer

    async def tail(
        self,
        topic: str,
        types: Collection[str],
        show: Callable[[Message], object],
        begun: Callable[[], object],
    ) -> None:
        """See `TailSource`. It reads the stream without a group, on a connection of its own."""
        del types
        timeout = self._group.timeout
        link = Link(self._connector, self._name, timeout=timeout, writes=False)
        try:
            await link.open(self._connect_timeout)
            await tail_stream(link, topic, show, begun, timeout)
        except (ReplyError, DisconnectedError) as error:
            raise BusUnavailableError(self._name, str(error)) from error
        finally:
            await link.close()

    async def close(self) -> None:
        """See `Transport`."""
        link, self._open = self._open, None
        if link is not None:
            await link.close(self._send_timeout if link.is_up else 0)


class RedisStreamsIntegrationEventBus(TransportIntegrationEventBus):
    """Carry events through Redis Streams: durable, shared among the processes of a consumer name.

    Otherwise as `TransportIntegrationEventBus`, with the options of `BusOptions`. Every call to the
    server ends within `connect_timeout` or `send_timeout`.

    Args:
        url: `redis://user:password@host:6379/0`, `rediss://` or `unix://`. Or a
            `redis.asyncio.Redis`, also behind Sentinel, whose settings are used; its own
            connections are neither used nor closed.
        registrations: The consumers.
        lease: After how long without a sign of life a process counts as dead, and what it held goes
            to others. A handler may take any time, but the event loop must not be blocked
            for that long.
        prefetch: The maximum of events that a fast consumer has in flight. A slow consumer has as
            many as it handles at once, so that other processes of its name get events.
        start: Where a new consumer name begins: at the `"oldest"` event in the stream, or after
            its `"newest"` event.
        retention: How long events are kept that every consumer name has handled. A new consumer
            name can still read them.
        max_length: Limits each topic to about so many events. It drops the oldest events even if
            no consumer has handled them: omit it unless memory matters more.
    """

    def __init__(
        self,
        url: str | Redis,
        registrations: Iterable[IntegrationEventBusRegistration] | None = None,
        *,
        lease: float = 30.0,
        prefetch: int = 128,
        start: Literal["oldest", "newest"] = "oldest",
        retention: float = 0.0,
        max_length: int | None = None,
        **options: Unpack[BusOptions],
    ) -> None:
        self._where = masked(url) if isinstance(url, str) else "client"
        connect_timeout = options.get("connect_timeout", 5.0)
        transport = RedisStreamsTransport(
            connector(repr(self), url),
            repr(self),
            group=GroupOptions(
                start="0" if start == "oldest" else "$",
                lease=lease,
                prefetch=prefetch,
                retention=retention,
                timeout=connect_timeout,
            ),
            connect_timeout=connect_timeout,
            send_timeout=options.get("send_timeout", 10.0),
            max_length=max_length,
        )
        super().__init__(transport, registrations, **options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._where})"


def _never(delivery: Delivery) -> asyncio.Future[Settlement]:
    raise AssertionError(f"{delivery} was read for a consumer that does not read")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split(".")[:2] if number.isdecimal())
