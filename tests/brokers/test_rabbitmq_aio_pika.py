"""RabbitMQ between us and a program with aio-pika that has never heard of this package."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from uuid import UUID, uuid4

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel

from events.integration import IntegrationEventBusRegistration, RetryPolicy, Topic
from events.integration.implementation.rabbitmq import RabbitMQIntegrationEventBus
from events.testing import eventually
from events.testing.contracts import Numbered, Probe
from tests.brokers.rabbitmq_server import Client, Declared, rabbitmq_url

__all__ = ["rabbitmq_url"]


@pytest.fixture
def topic() -> Topic:
    return Topic(f"aio-pika-{uuid4().hex[:8]}")


@pytest.fixture
async def channel(rabbitmq_url: str) -> AsyncGenerator[AbstractChannel]:
    """The other program's channel; what anybody declared is gone afterwards."""
    declared = Declared()
    declared.start()
    async with await aio_pika.connect(rabbitmq_url) as connection:
        yield await connection.channel()
    declared.stop()
    with Client(rabbitmq_url) as client:
        client.drop(declared.names)


async def test_plain_json_of_theirs_is_consumed_and_retried_as_one_event(
    rabbitmq_url: str, channel: AbstractChannel, topic: Topic
) -> None:
    async def fail_once(_: Numbered) -> None:
        if probe.arrivals[-1].delivery.attempt == 1:
            raise RuntimeError("once")

    probe = Probe(f"{topic.name}-reader", fail_once)
    registration = IntegrationEventBusRegistration(
        probe, topic, [Numbered], retry=RetryPolicy(delay=0.05, in_place=0)
    )
    async with RabbitMQIntegrationEventBus(rabbitmq_url, [registration]) as bus:
        exchange = await channel.get_exchange(topic.name)
        body = {"type": Numbered.type, "version": 1, "number": 7, "unknown": ["to us"]}
        await exchange.publish(
            aio_pika.Message(json.dumps(body).encode()), routing_key=Numbered.type
        )
        await eventually(lambda: probe.numbers == [7])
        assert probe.attempts == [1, 2]
        first, second = (arrival.delivery for arrival in probe.arrivals)
        assert first.id == second.id
        assert not await bus.dead_letters(probe)


async def test_what_we_send_is_theirs_to_read_as_plain_json_with_cloudevents_attributes(
    rabbitmq_url: str, channel: AbstractChannel, topic: Topic
) -> None:
    exchange = await channel.declare_exchange(topic.name, durable=True)
    queue = await channel.declare_queue(exclusive=True)
    await queue.bind(exchange, routing_key=Numbered.type)
    async with RabbitMQIntegrationEventBus(rabbitmq_url, source="/tests") as bus:
        await bus.send(topic, Numbered(7, text="ö"), key="k", headers={"x-own": "ü"})
    message = await queue.get(timeout=60)
    async with message.process():
        assert json.loads(message.body) == {
            "type": Numbered.type,
            "version": 1,
            "number": 7,
            "key": "",
            "text": "ö",
        }
        assert message.content_type == "application/json"
        assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
        assert message.type == Numbered.type
        assert message.routing_key == Numbered.type
        headers = dict(message.headers)
        assert headers["ce-specversion"] == "1.0"
        assert headers["ce-source"] == "/tests"
        assert headers["ce-type"] == Numbered.type
        assert headers["ce-eventversion"] == "1"
        assert headers["ce-partitionkey"] == "k"
        assert headers["ce-time"]
        assert message.message_id == headers["ce-id"]
        assert UUID(message.message_id).version == 7
        assert headers["x-own"] == "ü"


async def test_theirs_that_is_no_event_is_a_dead_letter_with_its_bytes_and_the_next_is_handled(
    rabbitmq_url: str, channel: AbstractChannel, topic: Topic
) -> None:
    probe = Probe(f"{topic.name}-reader")
    registration = IntegrationEventBusRegistration(probe, topic, [Numbered])
    async with RabbitMQIntegrationEventBus(rabbitmq_url, [registration]) as bus:
        exchange = await channel.get_exchange(topic.name)
        good = b'{"type":"%s","version":1,"number":1}' % Numbered.type.encode()
        for body in (b"\xff no JSON", good):
            await exchange.publish(aio_pika.Message(body), routing_key=Numbered.type)
        await eventually(lambda: probe.numbers == [1])

        async def kept() -> bool:
            return [x.message.body for x in await bus.dead_letters(probe)] == [b"\xff no JSON"]

        await eventually(kept)
