"""What happens elsewhere by default, and must not here. Where each of it is tested:

| elsewhere | here |
|---|---|
| confirmed messages are lost over a restart of RabbitMQ, as they were not persistent | test_rabbitmq_faults: `test_what_was_accepted_survives_a_restart_before_anybody_consumes`, `test_23...` |
| what a killed process had is stranded in Redis Streams, as a restart reads what is new | test_redis_streams_faults: `test_22...`, `test_29...` |
| JetStream replays its history at each restart, because it has no durable consumer | test_nats: `test_a_restart_replays_no_history`, test_nats_faults: `test_22...` |
| a poison message is discarded after one try, or tried thousands of times a second | below, in the defaults; contracts 11 and 12 |
| a handler is cancelled because the connection dropped | `test_28...` of each test_..._faults |
| `send` hangs on a frozen broker, past its timeout | `test_24...` of each test_..._faults |
| a consumer is gone, and its process lives on or exits with 0 | `test_a_consumer_that_..._takes_..._process_down` of each test_..._faults |
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from uuid import uuid4

import pytest

from events.integration import IntegrationEventBusRegistration, Topic
from events.testing import eventually
from events.testing.contracts import Harness, Numbered, Probe
from tests.brokers.rabbitmq_server import RabbitMQHarness, rabbitmq_url
from tests.contracts.nats_harness import NatsHarness
from tests.contracts.test_redis_streams_bus import StreamsHarness

__all__ = ["rabbitmq_url"]

BAD = 3


@pytest.fixture(params=["rabbitmq", "redis", "nats"])
async def harness(request: pytest.FixtureRequest) -> AsyncGenerator[Harness]:
    harness: Harness
    if request.param == "rabbitmq":
        harness = RabbitMQHarness(request.getfixturevalue("rabbitmq_url"))
    else:
        harness = StreamsHarness() if request.param == "redis" else NatsHarness()
    yield harness
    await harness.aclose()


async def test_a_poison_message_is_neither_discarded_nor_tried_in_a_hot_loop(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """With the default policy, whose delays are half a second and three times more each time."""

    async def fail_on_bad(event: Numbered) -> None:
        if event.number == BAD:
            raise RuntimeError("always")

    name = uuid4().hex[:8]
    topic, probe = Topic(f"poison-{name}"), Probe(f"reader-{name}", fail_on_bad)
    registration = IntegrationEventBusRegistration(probe, topic, [Numbered])
    async with harness.new_bus() as bus:
        await bus.register(registration)
        await bus.send_many(topic, map(Numbered, range(10)))

        def tries() -> list[float]:
            return [arrival.at for arrival in probe.arrivals if arrival.event.number == BAD]

        await eventually(lambda: len(tries()) == 3)
        first, second, third = tries()
        assert second - first > 0.4
        assert third - second > 1.3
        assert sorted(probe.numbers) == [n for n in range(10) if n != BAD], "neighbours wait"
        about_it = [record for record in caplog.records if record.name.startswith("events")]
        assert len(about_it) <= len(tries()), "more than a line for each try"
        # It is still there: mend what is wrong with it, and it is handled.
        probe.react = None
        await eventually(lambda: BAD in probe.numbers)
        assert not await bus.dead_letters(probe)
