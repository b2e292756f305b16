"""Two systems as a user would write them, each on a bus of the user's own over the bare port.

- A chat: servers tell each other what is said, over Redis pub/sub.
- A registration: a user service stores what it has to tell in an outbox of its own, a processor
  sends it over RabbitMQ with aio-pika, and an e-mail service handles it.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage, AbstractRobustConnection
from dishka import AsyncContainer, Provider, Scope, make_async_container, provide
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from events.domain import AggregateRoot, DomainEvent, DomainEventDispatcher, DomainEventHandler
from events.domain.implementation.dishka import DomainEventImplementationProvider
from events.integration import IntegrationEvent, IntegrationEventBus
from events.integration.topology import IntegrationEventBusRegistration, Topic
from events.integration.topology.consumer import EventHandlerConsumer, EventHandlerRegistry
from events.testing import eventually
from tests.brokers.rabbitmq_server import rabbitmq_url
from tests.brokers.redis_server import redis_url

__all__ = ["rabbitmq_url"]

TIMEOUT = 120.0


# --- a bus over Redis pub/sub: a topic is a channel, and everybody who listens gets everything


class RedisPubSubBus(IntegrationEventBus):
    def __init__(
        self, redis: Redis, registrations: list[IntegrationEventBusRegistration] | None = None
    ) -> None:
        super().__init__(registrations)
        self._redis = redis
        self._pubsub: PubSub = redis.pubsub()
        self._reading: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        for registration in self.registrations:
            await self._pubsub.subscribe(registration.topic.name)
        self._reading = asyncio.create_task(self._read())

    async def shutdown(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            with suppress(asyncio.CancelledError):
                await self._reading
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]

    async def register(self, registration: IntegrationEventBusRegistration) -> None:
        await super().register(registration)
        if self._reading is not None:
            await self._pubsub.subscribe(registration.topic.name)

    async def send(self, topic: Topic, event: IntegrationEvent) -> None:
        await self._redis.publish(topic.name, json.dumps(event.to_dict()))

    async def _read(self) -> None:
        while True:
            message: dict[str, Any] | None = await self._pubsub.get_message(
                ignore_subscribe_messages=True, timeout=None
            )
            if message is None:
                continue
            event = IntegrationEvent.from_dict(json.loads(message["data"]))
            for registration in self.registrations:
                if registration.topic.name == message["channel"].decode() and isinstance(
                    event, tuple(registration.events)
                ):
                    await registration.consumer.on_event(event)


@dataclass
class MessageSentV1(IntegrationEvent):
    type = "seed.chat.message_sent"
    version = 1

    author: str
    text: str


class Chatter:
    def __init__(self, name: str) -> None:
        self.name = name
        self.screen: list[str] = []
        self.count = 0

    async def show(self, event: MessageSentV1) -> None:
        self.screen.append(f"{event.author}: {event.text}")

    async def count_it(self, _: MessageSentV1) -> None:
        self.count += 1

    def consumer(self) -> EventHandlerConsumer:
        return EventHandlerConsumer(self.name, {MessageSentV1: [self.show, self.count_it]})


async def test_a_chat_over_redis_pubsub() -> None:
    room = Topic(f"seed-chat-{uuid4().hex}")
    ann, bob = Chatter("ann"), Chatter("bob")
    first = IntegrationEventBusRegistration(ann.consumer(), room, [MessageSentV1])
    late = bob.consumer()
    second = IntegrationEventBusRegistration(late, room, late.handlers.keys())
    async with Redis.from_url(redis_url()) as redis:
        servers = RedisPubSubBus(redis, [first]), RedisPubSubBus(redis)
        for server in servers:
            assert server.registrations == ([first] if server is servers[0] else [])
        await servers[1].register(second)
        for server in servers:
            await server.startup()
        await eventually(lambda: _listeners(redis, room, 2), TIMEOUT)
        await servers[0].send(room, MessageSentV1("ann", "hello"))
        await servers[1].send(room, MessageSentV1("bob", "hi"))
        said = ["ann: hello", "bob: hi"]
        await eventually(lambda: ann.screen == bob.screen == said, TIMEOUT)
        await eventually(lambda: (ann.count, bob.count) == (2, 2), TIMEOUT)
        await servers[1].unregister(
            IntegrationEventBusRegistration(bob.consumer(), room, [MessageSentV1])
        )
        assert servers[1].registrations == []
        for server in servers:
            await server.shutdown()


async def _listeners(redis: Redis, topic: Topic, number: int) -> bool:
    ((_, listening),) = await redis.pubsub_numsub(topic.name)
    return bool(listening == number)


# --- a bus over aio-pika: a topic is an exchange, a consumer a queue, an event's type a routing key


class RabbitMQBus(IntegrationEventBus):
    def __init__(
        self, url: str, registrations: list[IntegrationEventBusRegistration] | None = None
    ) -> None:
        super().__init__(registrations=registrations)
        self._url = url
        self._connection: AbstractRobustConnection | None = None

    async def startup(self) -> None:
        self._connection = await aio_pika.connect_robust(self._url)
        self._channel = await self._connection.channel()
        for registration in self.registrations:
            await self._consume(registration)

    async def shutdown(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def register(self, registration: IntegrationEventBusRegistration) -> None:
        await super().register(registration)
        if self._connection is not None:
            await self._consume(registration)

    async def send(self, topic: Topic, event: IntegrationEvent) -> None:
        exchange = await self._exchange(topic)
        await exchange.publish(
            aio_pika.Message(
                json.dumps(event.to_dict()).encode(),
                content_type="application/json",
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            ),
            routing_key=event.type,
        )

    async def _exchange(self, topic: Topic) -> aio_pika.abc.AbstractExchange:
        return await self._channel.declare_exchange(
            topic.name, aio_pika.ExchangeType.DIRECT, auto_delete=True
        )

    async def _consume(self, registration: IntegrationEventBusRegistration) -> None:
        exchange = await self._exchange(registration.topic)
        queue = await self._channel.declare_queue(registration.consumer.name, auto_delete=True)
        for event in registration.events:
            await queue.bind(exchange, routing_key=event.type)

        async def on_message(message: AbstractIncomingMessage) -> None:
            async with message.process(requeue=True):
                event = IntegrationEvent.from_dict(json.loads(message.body))
                await registration.consumer.on_event(event)

        await queue.consume(on_message)


# The user service: an aggregate, its event, a handler that stores what others are to hear of.


@dataclass
class UserRegistered(DomainEvent):
    type = "seed.user.registered"

    user: User


@dataclass
class User(AggregateRoot):
    email: str

    @classmethod
    def register(cls, email: str) -> User:
        user = cls(email)
        user.publish_event(UserRegistered(user))
        return user


@dataclass
class UserRegisteredV1(IntegrationEvent):
    type = "seed.user.registered"
    version = 1

    email: str


class OutboxTable:
    """What a database would hold: dicts, as they came from `to_dict`."""

    def __init__(self) -> None:
        self.rows: deque[tuple[str, dict[str, Any]]] = deque()


class TellOthers(DomainEventHandler[UserRegistered]):
    def __init__(self, outbox: OutboxTable, topic: Topic) -> None:
        self.outbox = outbox
        self.topic = topic

    async def handle(self, event: UserRegistered) -> None:
        flat = UserRegisteredV1(email=event.user.email)
        self.outbox.rows.append((self.topic.name, flat.to_dict()))


class OutboxProcessor:
    def __init__(self, outbox: OutboxTable, bus: IntegrationEventBus) -> None:
        self.outbox = outbox
        self.bus = bus

    async def process(self) -> None:
        while self.outbox.rows:
            topic, payload = self.outbox.rows[0]
            await self.bus.send(Topic(topic), IntegrationEvent.from_dict(payload))
            self.outbox.rows.popleft()


class UserService(Provider):
    scope = Scope.APP

    def __init__(self, url: str, topic: Topic) -> None:
        super().__init__()
        self._url, self._topic = url, topic

    outbox = provide(OutboxTable)
    processor = provide(OutboxProcessor)

    @provide
    def topic(self) -> Topic:
        return self._topic

    @provide
    async def bus(self) -> AsyncGenerator[IntegrationEventBus]:
        async with RabbitMQBus(self._url) as bus:
            yield bus


# The e-mail service: its consumer is made of what its container provides.


class EmailService(Provider):
    scope = Scope.APP

    def __init__(self, name: str) -> None:
        super().__init__()
        self._consumer_name = name
        self.sent: list[str] = []
        self.seen: list[str] = []
        self.mail_server_is_down = True

    async def welcome(self, event: UserRegisteredV1) -> None:
        if self.mail_server_is_down:
            self.mail_server_is_down = False
            raise ConnectionError("the mail server is down")
        self.sent.append(f"welcome, {event.email}")

    async def count(self, event: UserRegisteredV1) -> None:
        self.seen.append(event.email)

    @provide
    def handlers(self) -> EventHandlerRegistry:
        return {UserRegisteredV1: [self.welcome, self.count]}

    @provide
    def consumer(self, handlers: EventHandlerRegistry) -> EventHandlerConsumer:
        return EventHandlerConsumer(name=self._consumer_name, handlers=handlers)


async def register_users(container: AsyncContainer, *emails: str) -> None:
    async with container() as request, await request.get(DomainEventDispatcher) as dispatcher:
        for email in emails:
            dispatcher.from_entity(User.register(email))


async def test_a_registration_over_aio_pika(rabbitmq_url: str) -> None:
    topic = Topic(f"seed-users-{uuid4().hex}")
    emails = EmailService(f"{topic.name}-email")
    email_service = make_async_container(emails)
    user_service = make_async_container(
        DomainEventImplementationProvider([TellOthers]), UserService(rabbitmq_url, topic)
    )
    consumer = await email_service.get(EventHandlerConsumer)
    receiving = RabbitMQBus(
        rabbitmq_url,
        [IntegrationEventBusRegistration(consumer, topic, consumer.handlers.keys())],
    )
    async with receiving:
        await register_users(user_service, "ann@localhost", "bob@localhost")
        processor = await user_service.get(OutboxProcessor)
        assert len(processor.outbox.rows) == 2
        await processor.process()
        assert not processor.outbox.rows
        await eventually(lambda: len(emails.seen) == 2, TIMEOUT)
    assert sorted(emails.sent) == ["welcome, ann@localhost", "welcome, bob@localhost"]
    assert sorted(emails.seen) == ["ann@localhost", "bob@localhost"]
    await user_service.close()
    await email_service.close()


@pytest.mark.parametrize("registrations", [None, []])
def test_a_bus_of_ones_own_starts_without_registrations(
    registrations: list[IntegrationEventBusRegistration] | None,
) -> None:
    assert RabbitMQBus("amqp://nowhere", registrations).registrations == []
