"""What is given to a bus by mistake is refused when the bus is made, not when a broker is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from events.errors import InvalidTopologyError
from events.integration.implementation.nats import NatsIntegrationEventBus
from events.integration.implementation.rabbitmq import RabbitMQIntegrationEventBus

RABBITMQ: Callable[..., Any] = RabbitMQIntegrationEventBus
NATS: Callable[..., Any] = NatsIntegrationEventBus


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RABBITMQ([object()]), "needs a URL first, as in 'amqp://localhost', not <object"),
        (lambda: RABBITMQ("amqp://localhost", prefetch=0), "prefetch must be at least 1, not 0"),
        (
            lambda: RABBITMQ("amqp://localhost", delivery_limit=0),
            "delivery_limit must be at least 1, not 0",
        ),
        (lambda: NATS([object()]), "needs a URL first, as in 'nats://localhost', not <object"),
        (
            lambda: NATS("amqp://me:secret@localhost"),
            r"URL 'amqp://me:\*\*\*@localhost': .*must be nats, tls, ws, wss, not 'amqp'",
        ),
    ],
)
def test_a_slip_is_named_with_its_cure(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidTopologyError, match=message):
        make()


@pytest.mark.parametrize("server", ["localhost", "localhost:4222", "tls://localhost"])
def test_a_server_of_nats_needs_no_scheme(server: str) -> None:
    assert server in repr(NATS(server))
