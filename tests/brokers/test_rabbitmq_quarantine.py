"""What a shutdown and a lost connection do to what is in quarantine, handled one at a time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any
from unittest import mock
from uuid import uuid4

import pika  # type: ignore[import-untyped]
import pytest

from events.errors import BusUnavailableError
from events.integration import IntegrationEventBusRegistration, RetryPolicy, Topic
from events.integration.implementation.rabbitmq import (
    RabbitMQIntegrationEventBus,
    _connection,
    _quarantine,
)
from events.integration.implementation.rabbitmq._attachment import Attachment
from events.integration.implementation.rabbitmq._channel import Channel
from events.integration.implementation.rabbitmq._publisher import Publisher
from events.integration.implementation.rabbitmq._topology import QueueType, main_queue
from events.testing.contracts import Numbered, Probe
from events.testing.waiting import eventually
from tests.brokers.rabbitmq_server import Client, Declared, connections, rabbitmq_url

__all__ = ["rabbitmq_url"]

BARE = b'{"type":"events.contracts.numbered","version":1,"number":%d}'
MOMENTS = ["in a handler", "at the end of a handler", "after the acknowledgement"]


@pytest.fixture
def client(rabbitmq_url: str) -> Iterator[Client]:
    declared = Declared()
    declared.start()
    with Client(rabbitmq_url) as client:
        yield client
    declared.stop()
    with Client(rabbitmq_url) as client:
        client.drop(declared.names)


class Stopping:
    """A shutdown that is begun from within: at the latest moment, and once."""

    def __init__(self, bus: RabbitMQIntegrationEventBus) -> None:
        self._bus = bus
        self.task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        if self.task is None:
            self.task = asyncio.create_task(self._bus.shutdown())

    async def over(self) -> None:
        await eventually(lambda: self.task is not None)
        assert self.task is not None
        await self.task


def put(client: Client, queue: str, count: int) -> None:
    for number in range(count):
        properties = pika.BasicProperties(
            message_id=str(number), type=Numbered.type, delivery_mode=2
        )
        client.channel.basic_publish("", queue, BARE % number, properties)


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_one_that_is_on_its_way_at_a_shutdown_counts_as_no_crash(
    rabbitmq_url: str,
    client: Client,
    queue_type: QueueType,
    moment: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_quarantine, "_LOOKS", 5_000)  # a busy broker delivers the next one late
    monkeypatch.setattr(_connection, "_ANSWER_TIMEOUT", 60)  # and is silent for longer
    count, topic = 10, Topic(f"quarantine-{uuid4().hex[:8]}")
    probe = Probe(f"probe-{uuid4().hex[:8]}")
    bus = RabbitMQIntegrationEventBus(
        rabbitmq_url,
        [
            IntegrationEventBusRegistration(
                probe, topic, [Numbered], concurrency=2, retry=RetryPolicy(attempts=1)
            )
        ],
        queue_type=queue_type,
        send_timeout=60,
    )
    async with bus:
        pass
    quarantine = f"{main_queue(probe.name, topic.name)}:quarantine"
    put(client, quarantine, count)
    await eventually(lambda: client.count(quarantine) == count)

    acknowledge, call = Channel.ack, Channel.call
    stopping, gate = Stopping(bus), asyncio.Event()

    def ack(channel: Channel, tag: int) -> None:
        acknowledge(channel, tag)
        if moment == "after the acknowledgement":
            stopping.begin()

    async def cancel(channel: Channel, verb: str, **arguments: Any) -> Any:
        if verb == "basic_cancel":
            gate.set()
            await eventually(lambda: not probe.running)
            for _ in range(10):
                await asyncio.sleep(0)  # until its outcome is known
        return await call(channel, verb, **arguments)

    async def handle(_: Numbered) -> None:
        if moment != "after the acknowledgement":
            stopping.begin()
        if moment == "at the end of a handler":
            await gate.wait()

    probe.react = handle
    with mock.patch.object(Channel, "ack", ack), mock.patch.object(Channel, "call", cancel):
        while len(probe.handled) < count:
            gate.clear()
            stopping = Stopping(bus)
            await bus.startup()
            await stopping.over()
    probe.react = None
    async with bus:
        assert not await bus.dead_letters(probe), "a shutdown was counted as a failure"
    assert sorted(probe.numbers) == list(range(count))
    assert {a.delivery.crashes for a in probe.arrivals} == {0}
    assert client.count(quarantine) == 0


async def test_one_that_could_not_be_moved_while_the_connection_was_lost_is_handled_later(
    rabbitmq_url: str, client: Client
) -> None:
    topic, probe = Topic(f"quarantine-{uuid4().hex[:8]}"), Probe(f"probe-{uuid4().hex[:8]}")
    bus = RabbitMQIntegrationEventBus(
        rabbitmq_url, [IntegrationEventBusRegistration(probe, topic, [Numbered])]
    )
    async with bus:
        pass
    quarantine = f"{main_queue(probe.name, topic.name)}:quarantine"
    put(client, quarantine, 1)
    got: Any = await eventually(lambda: client.channel.basic_get(quarantine)[0])
    client.channel.basic_nack(got.delivery_tag, requeue=True)  # as if its process had died

    publish, down = Publisher.publish, Attachment.down
    moves: list[asyncio.Future[None]] = []

    def publish_later(self: Publisher, exchange: str, key: str, *args: Any, **options: Any) -> Any:
        if key != quarantine or moves:
            return publish(self, exchange, key, *args, **options)
        moves.append(asyncio.get_running_loop().create_future())
        return moves[0]

    def lose(self: Attachment) -> None:
        down(self)
        moves[0].set_exception(BusUnavailableError("RabbitMQ", "it is away, too"))

    with (
        mock.patch.object(Publisher, "publish", publish_later),
        mock.patch.object(Attachment, "down", lose),
    ):
        async with bus:
            await eventually(lambda: moves)
            inward = connections(bus)[1]
            inward._connection._transport._sock.shutdown(socket.SHUT_RDWR)
            await eventually(lambda: probe.numbers == [0])
    assert [a.delivery.crashes for a in probe.arrivals] == [1]


async def test_a_dead_letter_that_was_in_quarantine_has_its_type(
    rabbitmq_url: str, client: Client
) -> None:
    topic, probe = Topic(f"quarantine-{uuid4().hex[:8]}"), Probe(f"probe-{uuid4().hex[:8]}")
    bus = RabbitMQIntegrationEventBus(
        rabbitmq_url, [IntegrationEventBusRegistration(probe, topic, [Numbered])]
    )
    async with bus:
        pass
    foreign = pika.BasicProperties(message_id="1", delivery_mode=2)  # its key alone names the type
    client.channel.basic_publish(topic.name, Numbered.type, b"no event", foreign)
    queue = main_queue(probe.name, topic.name)
    for _ in range(2):
        got: Any = await eventually(lambda: client.channel.basic_get(queue)[0])
        client.channel.basic_nack(got.delivery_tag, requeue=True)  # as if its process had died
    async with bus:
        (letter,) = await eventually(lambda: bus.dead_letters(probe))
    assert (letter.reason, letter.message.type) == ("undecodable", Numbered.type)
