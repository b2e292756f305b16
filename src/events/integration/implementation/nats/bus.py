"""The bus on NATS JetStream. `_names` says what it makes at the server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Unpack

from nats.aio.client import Client

from events.errors import BusUnavailableError, InvalidTopologyError, MessageTooLargeError
from events.integration.brokering.dead_letters import RESERVED_BYTES
from events.integration.brokering.urls import checked, masked
from events.integration.health import Backlog
from events.integration.implementation.base import BusOptions, TransportIntegrationEventBus
from events.integration.implementation.nats import _wire as wire
from events.integration.implementation.nats._api import Api, ApiError, Nothing
from events.integration.implementation.nats._attempts import Attempts
from events.integration.implementation.nats._dead_letters import NatsDeadLetters
from events.integration.implementation.nats._link import Link
from events.integration.implementation.nats._names import redrive_subject, token, type_subject
from events.integration.implementation.nats._publisher import Publisher
from events.integration.implementation.nats._subscribed import NatsSubscribed, Session
from events.integration.implementation.nats._tailing import Tail
from events.integration.implementation.nats._topology import (
    ConsumerSpec,
    StreamSpec,
    check_consumer,
    check_stream,
    ensure_consumer,
    ensure_stream,
)
from events.integration.implementation.nats._writer import Writer
from events.integration.message import Message
from events.integration.topology import IntegrationEventBusRegistration
from events.integration.transport import Deliver, Subscription, TransportFeatures

logger = logging.getLogger("events.integration")

_ATTEMPTS_KEPT = 30 * 86_400.0  # seconds, after the last one
_SEVERAL_FILTERS = (2, 10)  # the first version whose consumers take a list of them
_SHORTEST_LEASE = 0.5
_SCHEMES = ("nats", "tls", "ws", "wss")


class NatsTransport:
    """A `Transport` to NATS JetStream; `NatsIntegrationEventBus` explains the options."""

    system = "nats"
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
        url: str | Sequence[str] | Client,
        *,
        timeout: float = 10.0,
        connect_timeout: float = 5.0,
        lease: float = 30.0,
        replicas: int = 1,
        max_age: float | None = None,
        prefix: str = "events",
        connect: Mapping[str, Any] | None = None,
    ) -> None:
        if lease < _SHORTEST_LEASE:
            raise InvalidTopologyError("NATS", f"lease must be at least {_SHORTEST_LEASE} s")
        servers: list[str] | Client
        if isinstance(url, Client):
            servers, shown = url, "client"
        else:
            servers = checked(url, "NATS", "nats://localhost", _check_scheme)
            shown = ", ".join(repr(masked(server)) for server in servers)
        self.name = f"NATS at {shown}"
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._replicas = replicas
        self._max_age = max_age
        self._streams: dict[str, StreamSpec] = {}
        self._link = Link(servers, name=self.name, timeout=connect_timeout, options=connect or {})
        self._writer = Writer(self._link)
        self._api = Api(self._link, self._writer, min(timeout, 5.0))
        self._publisher = Publisher(self._link, self._writer, self._api, timeout)
        own = token("prefix", prefix)
        dead = StreamSpec(
            name=f"{own}@dead-letters",
            subject=f"{own}@dead-letters.>",
            replicas=replicas,
            deletes=True,
        )
        attempts = StreamSpec(
            name=f"{own}@attempts",
            subject=f"{own}@attempts.>",
            replicas=replicas,
            max_age=_ATTEMPTS_KEPT,
            one_per_subject=True,
            deletes=True,
        )
        self._dead_letters = NatsDeadLetters(self._api, self._publisher, dead, self._stream)
        self._session = Session(
            link=self._link,
            writer=self._writer,
            api=self._api,
            attempts=Attempts(self._link, self._api, self._publisher, attempts),
            dead_letters=self._dead_letters,
            timeout=timeout,
            ack_wait=lease,
        )

    def __repr__(self) -> str:
        return f"<{self.name}>"

    @property
    def connected(self) -> bool:
        """Return whether there is a connection."""
        return self._link.is_up

    @property
    def error(self) -> str | None:
        """The problems at this moment."""
        return self._publisher.error if self._link.is_up else self._link.reason

    @property
    def dead_letters(self) -> NatsDeadLetters:
        """Return the dead letters' store."""
        return self._dead_letters

    async def connect(self) -> None:
        """See `Transport.connect`. Tries again until the deadline, but where it is refused."""
        await self._link.open(self._connect_timeout)
        logger.info("%s is connected", self.name)
        try:
            await self._api.request("INFO", None, Nothing)
        except ApiError as error:
            raise BusUnavailableError(self.name, f"JetStream: {error}") from error

    def publish(self, message: Message) -> Awaitable[None]:
        """See `Transport.publish`."""
        if not self._link.is_open:
            return _failed(BusUnavailableError(self.name, "it is closed"))
        try:
            stream = self._stream(message.topic)
        except InvalidTopologyError as error:
            return _failed(error)
        headers = wire.outgoing(message.headers, message.id, message.key)
        if len(headers) > wire.LARGEST_BLOCK:
            return _failed(
                MessageTooLargeError(
                    message.topic, message.type, len(headers), wire.LARGEST_BLOCK, "headers"
                )
            )
        size, limit = len(message.body), self._publisher.max_payload - RESERVED_BYTES - len(headers)
        if size > limit:
            return _failed(MessageTooLargeError(message.topic, message.type, size, limit))
        subject = type_subject(stream.name, message.type)
        return self._publisher.publish(stream, subject, message.body, headers)

    async def backlog(self, consumer: str, topics: Sequence[str]) -> Backlog:
        """See `BacklogSource`."""
        return await self._dead_letters.backlog(consumer, topics)

    async def paused(self, consumers: Collection[str]) -> frozenset[str]:
        """See `PauseStore`."""
        return await self._dead_letters.paused(consumers)

    async def set_paused(self, consumer: str, *, paused: bool) -> bool:
        """See `PauseStore`."""
        return await self._dead_letters.set_paused(consumer, paused=paused)

    async def subscribe(self, subscription: Subscription, deliver: Deliver) -> NatsSubscribed:
        """Make the stream and the durable consumer if need be and start to pull."""
        stream, consumer = self._specs(subscription)
        subscribed = NatsSubscribed(self._session, subscription, stream, consumer, deliver)
        await subscribed.start()
        return subscribed

    async def declare(self, subscription: Subscription) -> None:
        """See `PauseStore`."""
        stream, consumer = self._specs(subscription)
        await ensure_stream(self._api, stream)
        await ensure_consumer(self._api, consumer)

    async def check(self, subscription: Subscription) -> None:
        """See `TopologySource`."""
        stream, consumer = self._specs(subscription)
        if await check_stream(self._api, stream):
            await check_consumer(self._api, consumer)

    async def tail(
        self,
        topic: str,
        types: Collection[str],
        show: Callable[[Message], object],
        begun: Callable[[], object],
    ) -> None:
        """See `TailSource`. It reads by a consumer without a name, which acknowledges nothing."""
        del types
        await Tail(self._api, self._stream(topic).name, topic).run(show, begun)

    def _specs(self, subscription: Subscription) -> tuple[StreamSpec, ConsumerSpec]:
        stream = self._stream(subscription.topic)
        name = token("Consumer", subscription.consumer)
        filters: tuple[str, ...] = ()
        if self._link.version >= _SEVERAL_FILTERS:
            types = {type_subject(stream.name, each) for each in subscription.types}
            filters = (*sorted(types), redrive_subject(stream.name, name))
        consumer = ConsumerSpec(
            stream=stream.name, name=name, ack_wait=self._session.ack_wait, filters=filters
        )
        return stream, consumer

    async def close(self) -> None:
        """See `Transport.close`. A client that was passed in stays open."""
        try:
            await self._session.attempts.close()
            await self._publisher.close()
        finally:
            self._writer.stop()
            await self._link.close()

    def _stream(self, topic: str) -> StreamSpec:
        if topic not in self._streams:
            name = token("Topic", topic)
            self._streams[topic] = StreamSpec(
                name=name,
                subject=f"{name}.>",
                replicas=self._replicas,
                max_age=self._max_age,
            )
        return self._streams[topic]


class NatsIntegrationEventBus(TransportIntegrationEventBus):
    """Carry events over NATS JetStream 2.9 or newer: a stream per topic, a consumer per name.

    Otherwise as `TransportIntegrationEventBus`, with the options of `BusOptions`. Times are in
    seconds, sizes in bytes. Existing streams and consumers keep their settings, unless stated
    otherwise.

    Args:
        url: One URL, or several of a cluster; or a connected `nats` client, which is never
            closed, and which reconnects by itself.
        registrations: See `IntegrationEventBusRegistration`.
        lease: After how long a message of a dead process is redelivered to another. Handlers may
            take longer: the lease is renewed while their process lives and its event loop is not
            blocked for that long.
        replicas: The replicas of streams that the bus creates.
        max_age: The maximum age of messages in streams of topics that the bus creates; None means
            no limit. Older messages are deleted, handled or not.
        prefix: The beginning of the names of the streams for dead letters and attempts.
        connect: Additional arguments for `nats.connect`: TLS, credentials, a name.
    """

    def __init__(
        self,
        url: str | Sequence[str] | Client = "nats://localhost:4222",
        registrations: Iterable[IntegrationEventBusRegistration] | None = None,
        *,
        lease: float = 30.0,
        replicas: int = 1,
        max_age: float | None = None,
        prefix: str = "events",
        connect: Mapping[str, Any] | None = None,
        **options: Unpack[BusOptions],
    ) -> None:
        transport = NatsTransport(
            url,
            timeout=options.get("send_timeout", 10.0),
            connect_timeout=options.get("connect_timeout", 5.0),
            lease=lease,
            replicas=replicas,
            max_age=max_age,
            prefix=prefix,
            connect=connect,
        )
        self._shown = transport.name.removeprefix("NATS at ")
        super().__init__(transport, registrations, **options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._shown})"


def _check_scheme(url: str) -> None:
    scheme, separator, _ = url.partition("://")
    if separator and scheme not in _SCHEMES:
        raise ValueError(f"the scheme must be {', '.join(_SCHEMES)}, not {scheme!r}")


def _failed(error: Exception) -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future
