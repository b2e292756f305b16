"""The buses on Redis: Streams, which are durable, and pub/sub, a broadcast that keeps nothing.

Needs the extra `redis`: `pip install "integration-events[redis]"`.
"""

from events.integration.implementation.redis import RedisPubSubIntegrationEventBus as RedisPubSubBus
from events.integration.implementation.redis import (
    RedisStreamsIntegrationEventBus as RedisStreamsBus,
)

__all__ = ["RedisPubSubBus", "RedisStreamsBus"]
