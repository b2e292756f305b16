"""Dead letters on RabbitMQ: a queue that is read whole."""

from __future__ import annotations

from events.integration import RetryPolicy
from events.testing.contracts.probe import Numbered
from events.testing.contracts.scenario import Scenario
from tests.brokers.rabbitmq_server import RabbitMQHarness, rabbitmq_url

__all__ = ["rabbitmq_url"]


async def test_all_dead_letters_are_seen_of_more_than_a_quorum_queue_hands_out_unasked(
    rabbitmq_url: str,
) -> None:
    count = 2_100  # of what nobody limits, a quorum queue hands out 2,000 and no more

    async def refuse(_: object) -> None:
        raise ValueError("no")

    harness = RabbitMQHarness(rabbitmq_url)
    async with Scenario(harness) as scenario:
        probe, topic = scenario.probe(react=refuse), scenario.topic()
        bus = await scenario.started(
            scenario.registration(probe, topic, retry=RetryPolicy(attempts=1), concurrency=50)
        )
        await bus.send_many(topic, [Numbered(number) for number in range(count)])

        async def all_dead() -> bool:
            return (await bus.backlog(probe)).dead_letters == count

        await scenario.eventually(all_dead, "all are dead letters", lambda: None)
        letters = await bus.dead_letters(probe, limit=count)
        assert len(letters) == count
        assert len(await bus.dead_letters(probe, limit=count, after=letters[2_049].id)) == 50
        assert await bus.discard(probe, [letters[-1]]) == 1
