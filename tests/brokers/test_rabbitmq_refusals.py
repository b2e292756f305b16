"""What the broker refuses, takes away or limits, while the bus runs: nothing is lost over it, and its words are kept."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pika  # type: ignore[import-untyped]
import pytest

from events.errors import (
    BusError,
    BusUnavailableError,
    MessageTooLargeError,
    SendRefusedError,
)
from events.integration import IntegrationEventBusRegistration, RetryPolicy, Topic
from events.integration.brokering.problems import MOST_LINES
from events.integration.implementation.rabbitmq import RabbitMQIntegrationEventBus, _bindings
from events.integration.implementation.rabbitmq._driver import size_of_header
from events.integration.implementation.rabbitmq._publisher import Publisher
from events.integration.implementation.rabbitmq._topology import QueueType
from events.testing.contracts import Numbered, Probe
from events.testing.waiting import eventually
from tests.brokers.rabbitmq_server import Client, RabbitMQServer, private_server

BARE = b'{"type":"events.contracts.numbered","version":1,"number":%d}'
ONCE = RetryPolicy(attempts=1)


@pytest.fixture(scope="module")
def server() -> Iterator[RabbitMQServer]:
    with private_server() as server:
        yield server


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> Topic:
    return Topic(request.node.name.partition("[")[0].removeprefix("test_") + str(id(request)))


def registration(probe: Probe, topic: Topic, **options: Any) -> IntegrationEventBusRegistration:
    return IntegrationEventBusRegistration(probe, topic, [Numbered], **options)


async def fail_below_zero(event: Numbered) -> None:
    if event.number < 0:
        raise RuntimeError("bad")


def times_handled(probe: Probe) -> Counter[int]:
    return Counter(arrival.event.number for arrival in probe.arrivals)


def closed_channels(caplog: pytest.LogCaptureFixture) -> int:
    return sum("closed the publishing channel" in line for line in caplog.messages)


async def sent(bus: RabbitMQIntegrationEventBus, topic: Topic, number: int) -> bool:
    try:
        await bus.send(topic, Numbered(number))
    except BusUnavailableError:
        return False
    return True


# --- what an operator takes away ------------------------------------------------------------------


@pytest.mark.parametrize("taken", ["exchange", "binding"])
async def test_what_binds_a_running_consumer_is_made_again(
    server: RabbitMQServer, topic: Topic, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then, who sends gets an error: nothing that was accepted is lost."""
    topic, probe = Topic(f"{topic.name}-{taken}"), Probe("bound")
    under_way, bind_all = set[object](), _bindings.Bindings._bind_all

    async def bind(self: _bindings.Bindings, connection: Any) -> None:
        under_way.add(self)
        try:
            await bind_all(self, connection)
        finally:
            under_way.discard(self)

    monkeypatch.setattr(_bindings, "_EVERY", 0.5)
    monkeypatch.setattr(_bindings.Bindings, "_bind_all", bind)
    async with (
        RabbitMQIntegrationEventBus(server.url) as sender,
        RabbitMQIntegrationEventBus(server.url, [registration(probe, topic)]) as consumer,
    ):
        await sender.send(topic, Numbered(0))
        await eventually(lambda: probe.numbers == [0])
        with mock.patch.object(_bindings.Bindings, "_bind_all", mock.AsyncMock()):
            await eventually(lambda: not under_way)  # what has begun would bind it again
            with Client(server.url) as client:
                if taken == "exchange":
                    client.channel.exchange_delete(topic.name)
                else:
                    client.channel.queue_unbind(f"bound@{topic.name}", topic.name, Numbered.type)
            for number in range(1, 6):
                with pytest.raises(BusUnavailableError, match="no longer reaches a queue"):
                    await sender.send(topic, Numbered(number))
        await eventually(lambda: sent(sender, topic, 7))
        await eventually(lambda: probe.numbers == [0, 7])
        assert consumer.health().healthy


async def test_what_came_back_has_the_consumers_of_the_same_bus_bound_again_at_once(
    server: RabbitMQServer, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_bindings, "_EVERY", 1e6)
    probe = Probe("bound")
    async with RabbitMQIntegrationEventBus(server.url, [registration(probe, topic)]) as bus:
        await bus.send(topic, Numbered(0))
        with Client(server.url) as client:
            client.channel.exchange_delete(topic.name)
        assert not await sent(bus, topic, 1)
        await eventually(lambda: sent(bus, topic, 2))
        await eventually(lambda: probe.numbers == [0, 2])


async def test_a_binding_that_may_not_be_made_again_is_reported_and_retried(
    server: RabbitMQServer, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_bindings, "_EVERY", 0.1)
    server.permit("binder")
    probe = Probe("bound")
    url = server.as_user("binder")
    async with RabbitMQIntegrationEventBus(url, [registration(probe, topic)]) as bus:
        await bus.send(topic, Numbered(0))
        server.permit("binder", configure="^$")
        await eventually(lambda: not bus.health().healthy)
        assert "ACCESS_REFUSED" in (bus.health().consumers[0].error or "")
        await bus.send(topic, Numbered(1))
        await eventually(lambda: probe.numbers == [0, 1])
        server.permit("binder")
        await eventually(lambda: bus.health().healthy)


# --- permissions ----------------------------------------------------------------------------------


async def test_a_topic_that_must_not_be_written_costs_the_others_nothing(
    server: RabbitMQServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.permit("shop", write="^(orders|amq.default)$|.*@.*")
    orders, audit, probe = Topic("orders"), Topic("audit"), Probe("billing")
    url = server.as_user("shop")
    async with RabbitMQIntegrationEventBus(url, [registration(probe, orders)]) as bus:
        await bus.send(orders, Numbered(0))
        sends = [bus.send(orders, Numbered(number)) for number in range(1, 11)]
        sends.insert(5, bus.send(audit, Numbered(-1)))
        outcomes = await asyncio.gather(*sends, return_exceptions=True)
        refused = [outcome for outcome in outcomes if outcome is not None]
        assert [type(outcome) for outcome in refused] == [SendRefusedError]
        assert "ACCESS_REFUSED - access to exchange 'audit'" in str(refused[0])
        assert "to topic 'audit'" in str(refused[0])
        for number in range(20, 30):
            three = await asyncio.gather(
                bus.send(audit, Numbered(-1)),
                bus.send(orders, Numbered(number)),
                bus.send(audit, Numbered(-2)),
                return_exceptions=True,
            )
            assert [type(outcome) for outcome in three] == [
                SendRefusedError, type(None), SendRefusedError
            ]  # fmt: skip
        await eventually(lambda: set(times_handled(probe)) == {*range(11), *range(20, 30)})
        assert max(times_handled(probe).values()) <= 2, "what was in flight is sent again once"
        assert {times_handled(probe)[number] for number in range(20, 30)} == {1}
        assert closed_channels(caplog) == 1
        server.permit("shop")
        await bus.send(audit, Numbered(1))
        await bus.send_many(audit, map(Numbered, range(10)))


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
async def test_dead_letters_that_must_not_be_written_wait_for_the_permission(
    server: RabbitMQServer,
    topic: Topic,
    queue_type: QueueType,
    caplog: pytest.LogCaptureFixture,
) -> None:
    user, topic = f"mute-{queue_type}", Topic(f"{topic.name}-{queue_type}")
    server.permit(user)
    probe = Probe(f"mute-{queue_type}", fail_below_zero)
    async with RabbitMQIntegrationEventBus(
        server.as_user(user),
        [registration(probe, topic, retry=ONCE)],
        queue_type=queue_type,
        prefetch=10,
    ) as bus:
        server.permit(user, write=f"^{topic.name}$|.*@.*|.*:dead")
        await bus.send(topic, Numbered(-1))

        def logged() -> bool:
            lines = [line for line in caplog.messages if "cannot be moved to" in line]
            return any(
                "ACCESS_REFUSED - access to exchange 'amq.default'" in line for line in lines
            )

        await eventually(logged)
        await bus.send_many(topic, map(Numbered, range(20)))
        await eventually(lambda: set(times_handled(probe)) == {*range(-1, 20)})
        times = times_handled(probe)
        assert times.pop(-1) <= 2, "what was in flight when the channel closed is sent again once"
        assert set(times.values()) == {1}
        assert closed_channels(caplog) == 1
        server.permit(user)
        letters = await eventually(lambda: bus.dead_letters(probe))
        assert {letter.reason for letter in letters} == {"retries-exhausted"}


async def test_a_permission_that_comes_back_has_the_consumer_attached_again(
    server: RabbitMQServer, topic: Topic
) -> None:
    server.permit("reader")
    probe = Probe("reader")
    url = server.as_user("reader")
    async with RabbitMQIntegrationEventBus(url, [registration(probe, topic)]) as bus:
        server.ctl("set_permissions", "reader", "^$", ".*", "^$")
        await asyncio.to_thread(server.ctl, "close_all_connections", "by the test")
        await eventually(lambda: "ACCESS_REFUSED" in (bus.health().consumers[0].error or ""))
        assert not bus.health().healthy
        assert bus.health().consumers[0].alive
        server.permit("reader")
        await eventually(lambda: bus.health().healthy)
        await bus.send(topic, Numbered(1))
        await eventually(lambda: probe.numbers == [1])


async def test_the_reason_of_each_change_is_in_log_error_and_health(
    server: RabbitMQServer, topic: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    server.permit("rotated")
    url = server.as_user("rotated")
    async with RabbitMQIntegrationEventBus(url, send_timeout=15) as bus:
        await bus.send(topic, Numbered(1))
        server.ctl("change_password", "rotated", "other")
        await asyncio.to_thread(server.ctl, "close_all_connections", "rotation")
        await eventually(lambda: "ACCESS_REFUSED" in (bus.health().error or ""))
        assert not bus.health().connected
        with pytest.raises(BusError, match="ACCESS_REFUSED"):
            await bus.send(topic, Numbered(2))
        lines = [line for line in caplog.messages if "RabbitMQ at" in line]
        assert "rotation" in lines[0]
        assert sum("ACCESS_REFUSED" in line for line in lines) == 1
        server.ctl("change_password", "rotated", "rotated")
        await eventually(lambda: bus.health().healthy)
        assert bus.health().error is None
        await bus.send(topic, Numbered(3))


# --- limits ---------------------------------------------------------------------------------------


async def test_headers_over_the_limit_are_refused_before_they_are_sent(
    server: RabbitMQServer, topic: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    probe = Probe("small")
    async with RabbitMQIntegrationEventBus(
        f"{server.url}?frame_max=8192", [registration(probe, topic)]
    ) as bus:
        sends: list[Any] = [bus.send(topic, Numbered(number)) for number in range(10)]
        for size in (70_000, 9_000):  # over every bus's limit; and over this connection's alone
            sends.insert(5, bus.send(topic, Numbered(-1), headers={"x-big": "h" * size}))
        outcomes = [o for o in await asyncio.gather(*sends, return_exceptions=True) if o]
        assert [type(outcome) for outcome in outcomes] == [MessageTooLargeError] * 2
        assert all("has headers of" in str(outcome) for outcome in outcomes)
        await eventually(lambda: len(probe.arrivals) == 10)
        assert set(times_handled(probe).values()) == {1}
        assert "lost its connection" not in caplog.text


def full(headers: dict[str, str]) -> Any:
    return pika.BasicProperties(message_id="full", headers=headers)


@pytest.mark.parametrize("attempts", [1, 2])
async def test_what_leaves_no_room_in_its_headers_becomes_a_dead_letter_all_the_same(
    server: RabbitMQServer, topic: Topic, attempts: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A foreign message whose header frame is full, so that not a byte can be added."""
    topic, probe = Topic(f"{topic.name}-{attempts}"), Probe(f"full-{attempts}", fail_below_zero)
    retry = RetryPolicy(attempts=attempts, delay=0.01, in_place=0)
    async with RabbitMQIntegrationEventBus(
        server.url, [registration(probe, topic, retry=retry)]
    ) as bus:
        with Client(server.url) as client:
            room = client.connection._impl._body_max_length
            headers = {"x-small": "s", "x-big": ""}
            headers["x-big"] = "h" * (room - size_of_header(full(headers)))
            client.channel.basic_publish(topic.name, Numbered.type, BARE % -1, full(headers))
        letters = await eventually(lambda: bus.dead_letters(probe))
        message = letters[0].message
        assert message.id == "full"
        assert message.body == BARE % -1
        assert message.headers["x-small"] == "s"
        assert set(message.headers["x-big"]) == {"h"}
        assert letters[0].attempts == attempts == len(probe.arrivals)
        assert "headers that leave no room" in caplog.text
        assert "lost its connection" not in caplog.text


async def test_many_new_topics_need_few_channels(server: RabbitMQServer, topic: Topic) -> None:
    url = f"{server.url}?channel_max=6"
    async with RabbitMQIntegrationEventBus(url, send_timeout=60) as bus:  # for all of them
        sends = [bus.send(Topic(f"{topic.name}-{n}"), Numbered(n)) for n in range(200)]
        await asyncio.gather(*sends)


async def test_a_limit_of_channels_is_named(server: RabbitMQServer, topic: Topic) -> None:
    limit = "1 channels open, which is the limit (`channel_max` of the broker)"
    async with RabbitMQIntegrationEventBus(f"{server.url}?channel_max=1") as bus:
        for _ in range(2):  # the first failure leaves nothing behind
            with pytest.raises(BusUnavailableError) as raised:
                await bus.send(topic, Numbered(1))
            assert limit in str(raised.value)
    bus = RabbitMQIntegrationEventBus(
        f"{server.url}?channel_max=1",
        [registration(Probe("a"), topic), registration(Probe("b"), topic)],
    )
    with pytest.raises(BusUnavailableError) as raised:
        await bus.startup()
    assert limit in str(raised.value)


async def test_what_waits_for_a_declaration_ends_with_it(
    server: RabbitMQServer, topic: Topic
) -> None:
    """Whatever ends it, so that the next message starts afresh."""
    async with RabbitMQIntegrationEventBus(server.url, send_timeout=30) as bus:
        with (
            mock.patch.object(Publisher, "make", new=_broken_make(Publisher.make)),
            pytest.raises(BusUnavailableError, match="was not declared"),
        ):
            await bus.send(topic, Numbered(1))
        await bus.send(topic, Numbered(2))


def _broken_make(make: Any) -> Any:
    async def broken(self: Any, place: Any) -> None:
        bug = mock.patch.object(
            type(self._connection), "channel", mock.AsyncMock(side_effect=asyncio.CancelledError)
        )
        with bug:
            await make(self, place)

    return broken


async def test_a_limit_of_queues_is_reported_in_the_brokers_words(
    server: RabbitMQServer, topic: Topic
) -> None:
    server.ctl("add_vhost", "small")
    server.ctl("set_permissions", "-p", "small", "guest", ".*", ".*", ".*")
    server.ctl("set_vhost_limits", "-p", "small", '{"max-queues": 1}')
    bus = RabbitMQIntegrationEventBus(f"{server.url}small", [registration(Probe("one"), topic)])
    with pytest.raises(BusError) as raised:
        await bus.startup()
    assert "queue limit in vhost 'small' (1) is reached" in str(raised.value)
    assert "made otherwise" not in str(raised.value)


async def test_a_broker_that_ends_each_connection_fills_no_log(
    server: RabbitMQServer, topic: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    """As with a limit of a user's channels that the consumer needs."""
    server.permit("narrow")
    probe = Probe("narrow")
    url = server.as_user("narrow")
    async with RabbitMQIntegrationEventBus(url, [registration(probe, topic)]) as bus:
        server.ctl("set_user_limits", "narrow", '{"max-channels": 1}')
        await asyncio.to_thread(server.ctl, "close_all_connections", "by the test")
        await eventually(lambda: "maximum allowed user limit" in (bus.health().error or ""))
        losses = 0

        def several() -> bool:
            nonlocal losses
            losses += bool(bus.health().error)
            return losses > 100

        await eventually(several)
        lines = [line for line in caplog.messages if "connect" in line and "RabbitMQ at" in line]
        assert len(lines) <= 2 + 2 * MOST_LINES, lines
        server.ctl("clear_user_limits", "narrow", "all")
        await eventually(lambda: bus.health().healthy)
        await bus.send(topic, Numbered(1))
        await eventually(lambda: probe.numbers == [1])


# --- a blocked loop -------------------------------------------------------------------------------


async def test_what_was_handled_while_the_connection_was_lost_is_acknowledged_when_it_comes_again(
    server: RabbitMQServer, topic: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler blocks the loop: the acknowledgement is written before the loss is noticed."""
    caplog.set_level(logging.INFO)
    sent = asyncio.Event()

    async def block(event: Numbered) -> None:
        if event.number == 1:
            await sent.wait()  # as what is not confirmed yet would raise
            server.ctl("close_all_connections", "as its heartbeats are missing")

    probe = Probe("blocked", block)
    async with RabbitMQIntegrationEventBus(
        server.url, [registration(probe, topic, retry=ONCE)]
    ) as bus:
        await bus.send_many(topic, map(Numbered, range(1, 4)))
        sent.set()
        await eventually(lambda: "acknowledged without handling it" in caplog.text)
        await bus.send(topic, Numbered(4))
        await eventually(lambda: 4 in probe.numbers)
        assert times_handled(probe) == Counter([1, 2, 3, 4])
        assert await bus.dead_letters(probe) == []
        with Client(server.url) as client:
            await eventually(lambda: client.count(f"blocked@{topic.name}") == 0)
            assert client.count(f"blocked@{topic.name}:quarantine") == 0
