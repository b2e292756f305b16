"""RabbitMQ as a transport: two connections, one to publish and one to receive.

They are apart because a broker that runs short of memory or disk stops reading from connections
that publish: acknowledgements must not wait behind that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence

from events.errors import BusUnavailableError, InvalidTopologyError
from events.integration.brokering.problems import Outage
from events.integration.brokering.urls import checked, masked
from events.integration.health import Backlog
from events.integration.implementation.rabbitmq._bindings import Bindings
from events.integration.implementation.rabbitmq._connection import Connection
from events.integration.implementation.rabbitmq._dead_letters import RabbitMQDeadLetters
from events.integration.implementation.rabbitmq._driver import DriverError, check_url
from events.integration.implementation.rabbitmq._link import Link
from events.integration.implementation.rabbitmq._pausing import Pauses
from events.integration.implementation.rabbitmq._publisher import Publisher
from events.integration.implementation.rabbitmq._subscribed import RabbitMQSubscribed
from events.integration.implementation.rabbitmq._tailing import tail_exchange
from events.integration.implementation.rabbitmq._topology import Exchange, Names, QueueType
from events.integration.implementation.rabbitmq._wire import to_properties
from events.integration.message import Message
from events.integration.transport import Deliver, Subscription, TransportFeatures

logger = logging.getLogger("events.integration")


class RabbitMQTransport:
    """A `Transport` to a RabbitMQ broker or cluster; for its options see the bus."""

    system = "rabbitmq"
    features = TransportFeatures(
        durability="broker",
        delivery="group",
        before_first_start="gone",
        headers=True,
        delayed_retry=True,
        dead_letters=True,
        ordered=True,
    )

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        timeout: float = 10.0,
        connect_timeout: float = 5.0,
        queue_type: QueueType = "quorum",
        prefetch: int | None = None,
    ) -> None:
        self._urls = checked(url, "RabbitMQ", "amqp://localhost", check_url)
        if queue_type not in {"quorum", "classic"}:
            raise InvalidTopologyError(f"queue_type={queue_type!r}", "use 'quorum' or 'classic'")
        if prefetch is not None and prefetch < 1:  # to the broker, 0 is no limit at all
            raise InvalidTopologyError("RabbitMQ", f"prefetch must be at least 1, not {prefetch}")
        self._name = f"RabbitMQ at {', '.join(map(masked, self._urls))}"
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._queue_type: QueueType = queue_type
        self._prefetch = prefetch
        self._subscribed: set[RabbitMQSubscribed] = set()
        self._publisher: Publisher | None = None
        self._outward: Link | None = None
        self._inward: Link | None = None
        self._dead_letters: RabbitMQDeadLetters | None = None
        self._outage: Outage | None = None
        self._bindings: Bindings | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(masked, self._urls))})"

    @property
    def connected(self) -> bool:
        """Return whether the connections in use are up, and every consumer is on its queue."""
        outward, inward = self._outward, self._inward
        if outward is None or inward is None or not outward.is_up or self._cannot_publish:
            return False
        return not inward.is_open or (
            inward.is_up and not any(s.attachment.is_detached for s in self._subscribed)
        )

    @property
    def _cannot_publish(self) -> str | None:
        return None if self._publisher is None else self._publisher.error

    @property
    def error(self) -> str | None:
        """Return why the broker is not within reach, or takes nothing, as far as it is known."""
        if self._outage is None:
            return None
        return self._outage.reason or self._cannot_publish

    @property
    def dead_letters(self) -> RabbitMQDeadLetters | None:
        """Return the store of dead letters, while connected."""
        return self._dead_letters

    async def connect(self) -> None:
        """See `Transport.connect`; the connection to receive is opened with the first consumer."""
        if self._publisher is not None:
            return
        outage = self._outage = Outage(self._name)
        outward, inward = self._outward, self._inward = self._link(outage), self._link(outage)
        publisher = self._publisher = Publisher(
            self._timeout, why_down=lambda: outage.reason or outward.reason
        )
        outward.on_up.append(publisher.up)
        outward.on_down.append(publisher.down)
        inward.on_up.append(self._up)
        inward.on_down.append(self._down)
        for link in (outward, inward):
            link.on_end.append(self._ended)
        bindings = self._bindings = Bindings(self._subscribed, self._timeout)
        publisher.on_missed = bindings.look
        self._dead_letters = RabbitMQDeadLetters(
            inward, publisher, self._queue_type, timeout=self._timeout
        )
        await outward.open(self._connect_timeout)
        logger.info("%s is connected", outage.name)

    def _link(self, outage: Outage) -> Link:
        return Link(
            outage, self._urls, connect_timeout=self._connect_timeout, timeout=self._timeout
        )

    def publish(self, message: Message) -> asyncio.Future[None]:
        """See `Transport.publish`; the topic's exchange is made if it is missing."""
        if self._publisher is None:
            closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            closed.set_exception(BusUnavailableError(self._name, "it is closed"))
            return closed
        return self._publisher.publish(
            message.topic,
            message.type,
            to_properties(message),
            message.body,
            place=Exchange(message.topic),
        )

    async def backlog(self, consumer: str, topics: Sequence[str]) -> Backlog:
        """See `BacklogSource`."""
        if self._dead_letters is None:
            raise BusUnavailableError(self._name, "it is closed")
        return await self._dead_letters.backlog(consumer, topics)

    async def paused(self, consumers: Collection[str]) -> frozenset[str]:
        """See `PauseStore`."""
        return await self._pauses.paused(consumers)

    async def set_paused(self, consumer: str, *, paused: bool) -> bool:
        """See `PauseStore`."""
        return await self._pauses.set_paused(consumer, paused=paused)

    async def declare(self, subscription: Subscription) -> None:
        """See `PauseStore`."""
        names = Names(subscription.consumer, subscription.topic, self._queue_type)
        names.check()
        await self._pauses.declare(names, subscription.types)

    async def check(self, subscription: Subscription) -> None:
        """See `TopologySource`."""
        names = Names(subscription.consumer, subscription.topic, self._queue_type)
        names.check()
        await self._pauses.check(names)

    @property
    def _pauses(self) -> Pauses:
        if self._outward is None:
            raise BusUnavailableError(self._name, "it is closed")
        return Pauses(self._outward, self._queue_type, self._timeout)

    async def subscribe(self, subscription: Subscription, deliver: Deliver) -> RabbitMQSubscribed:
        """See `Transport.subscribe`.

        Raises:
            InvalidTopologyError: what the consumer needs is at the broker and is not as it should
                be, or the broker's user must not make it.
            BusUnavailableError: the broker does not answer.
        """
        if self._publisher is None or self._inward is None:
            raise BusUnavailableError(self._name, "it is closed")
        names = Names(subscription.consumer, subscription.topic, self._queue_type)
        names.check()
        inward = self._inward
        await inward.open(self._connect_timeout)
        subscribed = RabbitMQSubscribed(
            subscription,
            deliver,
            names,
            self._publisher,
            timeout=self._timeout,
            prefetch=self._prefetch,
        )
        connection = inward.connection
        if connection is None or not connection.is_open:
            raise BusUnavailableError(self._name, "its connection was lost")
        try:
            await subscribed.attachment.attach(connection)
        except DriverError as error:
            raise BusUnavailableError(self._name, f"{names.main}: {error}") from error
        self._subscribed.add(subscribed)
        subscribed.on_closed(lambda: self._subscribed.discard(subscribed))
        if inward.connection is not connection:
            subscribed.attachment.down()
            if inward.connection is not None:
                subscribed.attachment.up(inward.connection)
        return subscribed

    async def tail(
        self,
        topic: str,
        types: Collection[str],
        show: Callable[[Message], object],
        begun: Callable[[], object],
    ) -> None:
        """See `TailSource`. It binds a queue that the broker deletes with the connection."""
        if self._inward is None:
            raise BusUnavailableError(self._name, "it is closed")
        await self._inward.open(self._connect_timeout)
        connection = self._inward.connection
        if connection is None or not connection.is_open:
            raise BusUnavailableError(self._name, "its connection was lost")
        try:
            await tail_exchange(connection, self._timeout, topic, types, show, begun)
        except DriverError as error:
            raise BusUnavailableError(self._name, f"tail of {topic!r}: {error}") from error

    def _up(self, connection: Connection) -> None:
        if self._bindings is not None:
            self._bindings.up(connection)
        for subscribed in self._subscribed:
            subscribed.attachment.up(connection)

    def _down(self) -> None:
        if self._bindings is not None:
            self._bindings.down()
        for subscribed in self._subscribed:
            subscribed.attachment.down()

    def _ended(self, error: BusUnavailableError) -> None:
        for subscribed in tuple(self._subscribed):
            subscribed.end(error)

    async def close(self) -> None:
        """See `Transport.close`."""
        publisher, outward, inward = self._publisher, self._outward, self._inward
        self._publisher = self._outward = self._inward = self._dead_letters = None
        if publisher is None or outward is None or inward is None:
            return
        if self._bindings is not None:
            self._bindings.down()
        try:
            await publisher.drain()
            await publisher.stop()
        finally:
            await asyncio.gather(outward.close(), inward.close())
