"""The buses on Redis: Streams, durable, and pub/sub, a broadcast that keeps nothing."""

from events.integration.implementation.redis.pubsub import (
    RedisPubSubIntegrationEventBus,
    RedisPubSubTransport,
)
from events.integration.implementation.redis.streams import (
    RedisStreamsIntegrationEventBus,
    RedisStreamsTransport,
)

__all__ = [
    "RedisPubSubIntegrationEventBus",
    "RedisPubSubTransport",
    "RedisStreamsIntegrationEventBus",
    "RedisStreamsTransport",
]
