"""The buses on Redis: Streams, durable, and pub/sub, a broadcast that keeps nothing."""

from events.integration.implementation.redis.streams import (
    RedisStreamsIntegrationEventBus,
    RedisStreamsTransport,
)

__all__ = [
    "RedisStreamsIntegrationEventBus",
    "RedisStreamsTransport",
]
