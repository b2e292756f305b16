"""Events as they are sent, without consuming them: the output of `events tail`.

    async with Tail(bus, "users") as events:  # from here on, it misses none
        async for event in events:
            print(event.at, event.type, event.body)

Consumers get the same events as without it, and nothing remains at the broker. On a broadcast it is
one more subscriber. A database and the memory bus deliver events only to their consumers: there it
raises `UnsupportedByBusError`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from msgspec import Struct

from events.errors import BusUnavailableError, EventDecodeError, UnsupportedByBusError
from events.integration._compression import LARGEST, unpacked
from events.integration.brokering.backoff import Backoff
from events.integration.brokering.doing import doing
from events.integration.cloudevents import attribute, own_id, unwrapped
from events.integration.event import IntegrationEvent
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.message import Ack, Delivery, Message, Settlement
from events.integration.topology import IntegrationEventBusRegistration
from events.integration.transport import Subscription, TailSource
from events.operations.shown import Shown

__all__ = ["Tail", "TailedEvent"]

logger = logging.getLogger("events.operations")

_HELD = 10_000  # events that wait for a slow reader; the oldest are dropped


class TailedEvent(Struct, frozen=True, kw_only=True):
    """One event.

    `hidden` means that its body is not shown, because it is not known which values are personal.
    """

    at: datetime
    topic: str
    type: str
    id: str
    correlation_id: str
    key: str | None
    headers: dict[str, str]
    body: str
    hidden: bool


class Tail:
    """Follow a topic, or the topics and types of a consumer, from now on.

    `registrations` are by default those of the bus. `classes` are additional event classes, whose
    types are then known and whose personal values are masked. `types` selects event types; without
    it, RabbitMQ, which subscribes by type, shows only the known types. `personal` shows personal
    values. After an outage it continues with events that are sent then.
    """

    def __init__(
        self,
        bus: TransportIntegrationEventBus,
        name: str,
        *,
        registrations: Iterable[IntegrationEventBusRegistration] | None = None,
        classes: Iterable[type[IntegrationEvent]] = (),
        types: Collection[str] = (),
        personal: bool = False,
    ) -> None:
        self._bus = bus
        known = tuple(bus.registrations if registrations is None else registrations)
        classes = tuple(classes)
        self._shown = Shown([*(each for r in known for each in r.events), *classes])
        self._personal = personal
        here = [each for each in known if each.topic.name == name]
        self._only: frozenset[str] = frozenset(types)
        if not here and (theirs := [each for each in known if each.consumer.name == name]):
            here = theirs
            self._only = self._only or frozenset(e.type for each in here for e in each.events)
        self.topics = tuple(dict.fromkeys(each.topic.name for each in here)) or (name,)
        self._known = frozenset(e.type for each in here for e in each.events)
        self._known |= {each.type for each in classes}
        self._queue: asyncio.Queue[Message] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self.dropped = 0

    async def __aenter__(self) -> Self:
        """Return when it is subscribed. Raises errors of `events.errors`."""
        transport = self._bus.transport
        features = transport.features
        if not isinstance(transport, TailSource) and features.delivery != "broadcast":
            raise UnsupportedByBusError(
                self._bus,
                "follow a topic without being one of its consumers",
                "use `events story` with a journal, or register another consumer",
            )
        ready = [asyncio.Event() for _ in self.topics]
        try:
            for topic, event in zip(self.topics, ready, strict=True):
                follow = self._follow(topic, event)
                self._tasks.append(asyncio.create_task(follow, name=f"tail of {topic}"))
            for event, task in zip(ready, self._tasks, strict=True):
                waiting = asyncio.create_task(event.wait())
                try:
                    await asyncio.wait([waiting, task], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waiting.cancel()
                if task.done():
                    task.result()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._end()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TailedEvent:
        getting = asyncio.create_task(self._queue.get())
        try:
            await asyncio.wait([getting, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                for task in self._tasks:
                    if task.done():
                        task.result()
            return self._seen(await getting)
        finally:
            getting.cancel()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks.clear()

    async def _follow(self, topic: str, ready: asyncio.Event) -> None:
        transport = self._bus.transport
        types = self._only or self._known
        backoff = Backoff(0.2, 5.0)

        def begun() -> None:
            ready.set()
            backoff.reset()

        while True:
            try:
                with doing(f"follow the topic {topic!r}"):
                    if isinstance(transport, TailSource):
                        await transport.tail(topic, types, self._show, begun)
                    else:
                        await self._listen(topic, begun)
            except BusUnavailableError as error:
                if not ready.is_set():
                    raise
                logger.warning(
                    "the tail of %r is interrupted, and misses events that are sent meanwhile: %s",
                    topic,
                    error,
                )
                await backoff.pause()

    async def _listen(self, topic: str, begun: Callable[[], object]) -> None:
        """Subscribe like a consumer, on a bus where each subscriber gets everything."""
        loop = asyncio.get_running_loop()

        def deliver(delivery: Delivery) -> asyncio.Future[Settlement]:
            said = attribute(delivery.headers, "type") or ""
            self._show(
                Message(topic, said, delivery.id, delivery.body, delivery.headers, delivery.key)
            )
            done: asyncio.Future[Settlement] = loop.create_future()
            done.set_result(Ack())
            return done

        subscribed = await self._bus.transport.subscribe(
            Subscription(
                topic=topic,
                consumer="events tail",
                types=self._only or self._known,
                concurrency=1,
                ordered=True,
            ),
            deliver,
        )
        try:
            begun()
            await subscribed.wait_closed()
        finally:
            await subscribed.close()

    def _show(self, message: Message) -> None:
        message = self._opened(message)
        if self._only and message.type not in self._only:
            return
        self._queue.put_nowait(message)
        while self._queue.qsize() > _HELD:
            self._queue.get_nowait()
            self.dropped += 1

    def _opened(self, message: Message) -> Message:
        """Return a message without its envelope and uncompressed, if possible."""
        headers = message.headers
        delivery = Delivery(message.topic, "", message.id, message.body, headers, key=message.key)
        with suppress(EventDecodeError):
            if "content-encoding" in headers:
                delivery = unpacked(delivery, LARGEST)
            delivery = unwrapped(delivery, expected=not self._bus.transport.features.headers)
        return Message(
            message.topic,
            attribute(delivery.headers, "type") or message.type,
            own_id(delivery.headers, delivery.body) or message.id,
            delivery.body,
            delivery.headers,
            delivery.key,
        )

    def _seen(self, message: Message) -> TailedEvent:
        now = datetime.now(UTC)
        letter = self._shown.message(
            message,
            personal=self._personal,
            id=message.id,
            consumer="",
            reason="",
            error="",
            attempts=0,
            died_at=now,
        )
        return TailedEvent(
            at=now,
            topic=letter.topic,
            type=letter.type,
            id=letter.message_id,
            correlation_id=letter.correlation_id,
            key=letter.key,
            headers=letter.headers,
            body="" if letter.hidden else letter.body,
            hidden=letter.hidden,
        )
