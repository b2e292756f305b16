"""Where brokers and databases are: on localhost, or where the environment says."""

from __future__ import annotations

import os

RABBITMQ = os.environ.get("EVENTS_TEST_RABBITMQ_URL", "amqp://guest:guest@localhost:5672/")
REDIS = os.environ.get("EVENTS_TEST_REDIS_URL", "redis://localhost:6379/0")
NATS = os.environ.get("EVENTS_TEST_NATS_URL", "nats://localhost:4222")
