"""The broadcast on Redis: a topic is a channel, and current subscribers get each event.

At most once: nothing is kept. What is published while a subscriber is away, while its connection is
made again, or while the server has dropped it for being slow, it never gets. In order, for each
channel. For more, use Streams.

A message is one JSON envelope (CloudEvents, structured mode); a bare `{"type", "version", ...}`
from another program is read as well, and so are frames of FastStream.

    PUBLISH --> channel --> one connection for all subscriptions --> each of its consumers, in order

What is read ahead of the handlers is kept as bytes, as it came; for an order by keys it is decoded.
A consumer that falls behind by `backlog` events, or by 8 MiB of them, stops the reading for all of
the bus, so that memory stays flat; the server then buffers for us, and drops the connection when
its own limit is reached (`client-output-buffer-limit pubsub`). That is logged, and counted in
`interruptions`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Unpack

from events.errors import BusUnavailableError, InvalidTopologyError
from events.integration.brokering.read_ahead import READ_AHEAD
from events.integration.brokering.urls import masked
from events.integration.cloudevents import own_id
from events.integration.implementation.base import BusOptions, TransportIntegrationEventBus
from events.integration.implementation.redis._connecting import (
    Connector,
    DisconnectedError,
    Redis,
    ReplyError,
    connector,
)
from events.integration.implementation.redis._faststream import read_frame
from events.integration.implementation.redis._link import Link
from events.integration.implementation.redis._sending import Sending
from events.integration.message import Delivery, Message, Settlement
from events.integration.topology import IntegrationEventBusRegistration
from events.integration.transport import Deliver, Subscription, TransportFeatures
from events.integration.uuid7 import uuid7

_IN_A_TURN = 100  # events, which take a millisecond or two

logger = logging.getLogger("events.integration")


class _Listener:
    """A `Subscribed`: one registration's share of what its channel brings.

    channel --> waiting, as bytes --> handed over, unsettled --> settled, and forgotten
    """

    def __init__(
        self, transport: RedisPubSubTransport, subscription: Subscription, deliver: Deliver
    ) -> None:
        self.topic = subscription.topic
        self._transport = transport
        self._consumer = subscription.consumer
        self._deliver = deliver
        # Enough to keep the handlers busy; where keys have an order, whichever has another key.
        ordered = subscription.ordered
        self._concurrency = subscription.concurrency
        self._most_unsettled = transport.most_behind if ordered else 2 * subscription.concurrency
        self._waiting: deque[bytes] = deque()
        self._unsettled: dict[asyncio.Future[Settlement], int] = {}  # and the sizes
        self._bytes = 0  # of all that it is behind
        # Of bare bodies; an envelope has an id of its own.
        self._ids = map(f"{uuid7()}-{{}}".format, count(1))
        self._going_on = False
        self._paused = False
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def last_poll(self) -> float | None:
        return self._transport.last_heard

    @property
    def behind(self) -> int:
        return len(self._waiting) + len(self._unsettled)

    @property
    def bytes_behind(self) -> int:
        return self._bytes

    def take(self, body: bytes) -> None:
        if self._paused:
            return
        self._bytes += len(body)
        if self._waiting or len(self._unsettled) >= self._most_unsettled:
            self._waiting.append(body)
        else:
            self._hand(body)
        behind = len(self._waiting) + len(self._unsettled)
        if behind >= self._transport.most_behind or (
            self._bytes >= READ_AHEAD and behind > self._concurrency
        ):
            self._transport.hold(self)

    def _has_caught_up(self) -> bool:
        """Return whether half of what made it hold is handled."""
        if 2 * self.behind > self._transport.most_behind:
            return False
        return 2 * self._bytes < READ_AHEAD or self.behind <= self._concurrency

    def _hand(self, body: bytes) -> None:
        frame = read_frame(body)
        if frame is None:
            delivery = Delivery(self.topic, self._consumer, next(self._ids), body, {})
        else:
            event_id = own_id(frame.headers, frame.body) or next(self._ids)
            delivery = Delivery(self.topic, self._consumer, event_id, frame.body, frame.headers)
        size = len(body)
        self._bytes -= size
        future = self._deliver(delivery)
        # What is skipped, or cannot be read, is settled by now, and has nothing to wait for.
        if not future.done():
            self._bytes += size
            self._unsettled[future] = size
            future.add_done_callback(self._settled)

    def _settled(self, future: asyncio.Future[Settlement]) -> None:
        # Retries were waited for in place, and what was rejected is logged: nothing is left to do.
        self._bytes -= self._unsettled.pop(future)
        if not self._going_on:
            self._go_on()

    def _go_on(self) -> None:
        """Hand over what waits; of what is settled at once only so much in a turn of the loop."""
        left = _IN_A_TURN
        try:
            while left and self._waiting and len(self._unsettled) < self._most_unsettled:
                left -= 1
                self._hand(self._waiting.popleft())
        finally:
            self._going_on = bool(self._waiting) and len(self._unsettled) < self._most_unsettled
            if self._going_on:
                asyncio.get_running_loop().call_soon(self._go_on)
            if self in self._transport.held_by and self._has_caught_up():
                self._transport.release(self)

    async def pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._bytes -= sum(map(len, self._waiting))
            self._waiting.clear()
            await self._transport.leave(self)

    async def close(self) -> None:
        await self.pause()
        while self._unsettled:
            await asyncio.wait(self._unsettled)
        if not self._closed.done():
            self._closed.set_result(None)

    def end(self, error: Exception) -> None:
        if not self._closed.done():
            self._closed.set_exception(error)

    async def wait_closed(self) -> None:
        await asyncio.shield(self._closed)


class RedisPubSubTransport:
    """A `Transport` to Redis pub/sub. `interruptions` counts when a subscriber was cut off."""

    system = "redis"
    features = TransportFeatures(
        durability="nothing",
        delivery="broadcast",
        before_first_start="gone",
        headers=False,
        delayed_retry=False,
        dead_letters=False,
        ordered=True,
    )
    dead_letters = None

    def __init__(
        self,
        connector: Connector,
        name: str,
        *,
        connect_timeout: float,
        send_timeout: float,
        backlog: int,
    ) -> None:
        self._connector = connector
        self._name = name
        self._connect_timeout = connect_timeout
        self._send_timeout = send_timeout
        self._publishing = Sending(name, send_timeout)
        # Not `backlog`, which is the method of a transport that can tell one.
        self.most_behind = backlog
        self.held_by: set[_Listener] = set()  # they are behind, so nothing more is read
        self._sending: Link | None = None
        self._listening: Link | None = None
        self._listeners: defaultdict[str, list[_Listener]] = defaultdict(list)
        self._changing = asyncio.Lock()
        self.interruptions = 0

    @property
    def connected(self) -> bool:
        """See `Transport`: both connections, once there is a subscription."""
        return (
            self._sending is not None
            and self._sending.is_up
            and (self._listening is None or self._listening.is_up)
        )

    @property
    def error(self) -> str | None:
        """Return why it is not connected, or why something cannot be sent."""
        links = [link for link in (self._sending, self._listening) if link is not None]
        reasons = dict.fromkeys(link.reason for link in links if link.reason is not None)
        return "; ".join(reasons) or self._publishing.error

    @property
    def last_heard(self) -> float | None:
        """Return when the server was last heard of by the subscriptions' connection."""
        return None if self._listening is None else self._listening.last_heard

    async def connect(self) -> None:
        """See `Transport`. Tries again until `connect_timeout` is over."""
        # `PUBLISH` is no write: a replica takes it, for those who listen there.
        link = Link(self._connector, self._name, timeout=self._connect_timeout, writes=False)
        self._sending = link
        link.on_end.append(self._ended)
        await link.open(self._connect_timeout)
        logger.info("%s is connected", self._name)

    def publish(self, message: Message) -> asyncio.Future[None]:
        """See `Transport`. Accepted means published, with or without subscribers."""
        if self._sending is None:
            raise BusUnavailableError(self._name, "it is closed")
        return self._publishing.send(self._sending, message, "PUBLISH", message.topic, message.body)

    async def close(self) -> None:
        """See `Transport`."""
        sending, self._sending = self._sending, None
        listening, self._listening = self._listening, None
        self._listeners.clear()
        self.held_by.clear()
        try:
            if listening is not None:
                await listening.close(0)
        finally:
            if sending is not None:
                await sending.close(self._send_timeout if sending.is_up else 0)

    # --- subscriptions ------------------------------------------------------------------------

    async def subscribe(self, subscription: Subscription, deliver: Deliver) -> _Listener:
        """See `Transport`."""
        listener = _Listener(self, subscription, deliver)
        async with self._subscribing():
            listeners = self._listeners[listener.topic]
            listeners.append(listener)
            try:
                await self._listen(listener.topic, first=len(listeners) == 1)
            except BaseException as error:
                listeners.remove(listener)
                if isinstance(error, (ReplyError, DisconnectedError)):
                    raise BusUnavailableError(self._name, str(error)) from error
                raise
        return listener

    async def _listen(self, topic: str, *, first: bool) -> None:
        if self._listening is None:
            link = Link(
                self._connector,
                f"{self._name}, subscriptions",
                timeout=self._connect_timeout,
                level=logging.ERROR,
                greeting=self._greeting,
                writes=False,
                on_push=self._on_push,
            )
            link.on_down.append(self._on_down)
            link.on_end.append(self._ended)
            await link.open(self._connect_timeout)  # its greeting subscribes
            self._listening = link
        elif first:
            await self._listening.call("SUBSCRIBE", topic)

    async def leave(self, listener: _Listener) -> None:
        """Unsubscribe from the channel if this was its last listener."""
        async with self._subscribing():
            listeners = self._listeners.get(listener.topic, [])
            if listener in listeners:
                listeners.remove(listener)
            if not listeners:
                self._listeners.pop(listener.topic, None)
                if self._listening is not None and self._listening.is_up:
                    try:
                        await self._listening.call("UNSUBSCRIBE", listener.topic)
                    except (ReplyError, DisconnectedError) as error:
                        logger.debug("%s did not unsubscribe: %s", self._name, error)
        self.release(listener)

    def _greeting(self) -> Sequence[tuple[Any, ...]]:
        channels = [topic for topic, listeners in self._listeners.items() if listeners]
        # One command for each, as each is answered once for each.
        return [("PING",), *(("SUBSCRIBE", channel) for channel in channels)]

    def _on_push(self, message: list[bytes]) -> None:
        _, channel, body = message
        # Where tasks start at once, a handler may unregister one of them by now.
        for listener in tuple(self._listeners.get(channel.decode(), ())):
            listener.take(body)

    def hold(self, listener: _Listener) -> None:
        """Read nothing more until this listener has caught up."""
        if self.held_by:
            self.held_by.add(listener)
        elif self._listening is not None and not self._changing.locked():
            self.held_by.add(listener)
            self._listening.readable.clear()
            logger.warning(
                "%s: a consumer of %r is %d events (%d bytes) behind. Reading stops until it "
                "catches up. If that takes too long, the server disconnects the bus",
                self._name,
                listener.topic,
                listener.behind,
                listener.bytes_behind,
            )

    def release(self, listener: _Listener) -> None:
        """Read on, as far as this listener is concerned."""
        if listener in self.held_by:
            self.held_by.discard(listener)
            if not self.held_by and self._listening is not None:
                self._listening.readable.set()

    @asynccontextmanager
    async def _subscribing(self) -> AsyncGenerator[None]:
        """Change subscriptions one at a time, and read meanwhile: the answers are in line."""
        async with self._changing:
            self.held_by.clear()
            if self._listening is not None:
                self._listening.readable.set()
            yield

    def _ended(self, error: BusUnavailableError) -> None:
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.end(error)

    def _on_down(self) -> None:
        if self._listening is not None:  # else it is closed
            self.interruptions += 1


class RedisPubSubIntegrationEventBus(TransportIntegrationEventBus):
    """Broadcast events over Redis pub/sub: in order, at most once, to current subscribers.

    Every registration gets all events while it is connected, including registrations with the same
    consumer name. Events that are sent while it is not connected are lost. A failed handler is
    retried in this process; after the last attempt the event is logged and dropped. Otherwise as
    `TransportIntegrationEventBus`, with the options of `BusOptions`.

    Args:
        url: `redis://user:password@host:6379/0`, `rediss://` or `unix://`. Or a
            `redis.asyncio.Redis`, also behind Sentinel, whose settings are used; its own
            connections are neither used nor closed.
        registrations: The consumers.
        backlog: How many events a consumer may be behind before reading stops; 8 MiB also stop it.
            Events of all types count, because waiting events are not decoded yet.
    """

    def __init__(
        self,
        url: str | Redis,
        registrations: Iterable[IntegrationEventBusRegistration] | None = None,
        *,
        backlog: int = 10_000,
        **options: Unpack[BusOptions],
    ) -> None:
        self._where = masked(url) if isinstance(url, str) else "client"
        if backlog < 1:
            raise InvalidTopologyError(repr(self), f"backlog must be at least 1, not {backlog}")
        connect_timeout = options.get("connect_timeout", 5.0)
        transport = RedisPubSubTransport(
            connector(repr(self), url),
            repr(self),
            connect_timeout=connect_timeout,
            send_timeout=options.get("send_timeout", 10.0),
            backlog=backlog,
        )
        super().__init__(transport, registrations, **options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._where})"
