"""One way to the broker of each kind, for tests that run on all of them."""

from __future__ import annotations

import pytest

from tests.brokers.nats_server import plain_url
from tests.brokers.redis_server import redis_url

__all__ = ["broker_url"]


def broker_url(kind: str, request: pytest.FixtureRequest) -> str:
    """Give the URL; the test's module has to import the fixture `rabbitmq_url`."""
    if kind == "rabbitmq":
        url: str = request.getfixturevalue("rabbitmq_url")
        return url
    return {"redis": redis_url, "nats": plain_url}[kind]()
