"""The brokers, who takes part on each, and how much work suits it."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.contestants import Contestant, memory, nats, rabbitmq, redis


class Sizes(NamedTuple):
    in_flight: tuple[int, ...]
    one_by_one: int
    many: int
    keeps: bool = True


BROKERS: dict[str, tuple[Contestant, ...]] = {
    "RabbitMQ": rabbitmq.CONTESTANTS,
    "NATS JetStream": nats.CONTESTANTS,
    "Redis Streams": redis.STREAMS,
    "Redis pub/sub": redis.PUBSUB,
    "memory": memory.CONTESTANTS,
}
SIZES = {
    "RabbitMQ": Sizes((1, 100, 1_000), 300, 3_000),
    "NATS JetStream": Sizes((1, 100, 1_000), 500, 5_000),
    "Redis Streams": Sizes((1, 100), 1_000, 5_000),
    "Redis pub/sub": Sizes((1, 100), 1_000, 5_000, keeps=False),
    "memory": Sizes((1, 1_000), 5_000, 10_000),
}
