"""The bus over RabbitMQ 3.10 to 4.x."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Unpack

from events.integration.implementation.base import BusOptions, TransportIntegrationEventBus
from events.integration.implementation.rabbitmq._topology import QueueType
from events.integration.implementation.rabbitmq.transport import RabbitMQTransport
from events.integration.topology import IntegrationEventBusRegistration

__all__ = ["RabbitMQIntegrationEventBus"]


class RabbitMQIntegrationEventBus(TransportIntegrationEventBus):
    """Carry events over RabbitMQ: a topic is a durable exchange, a consumer a durable queue.

    An event is sent when the broker has confirmed it, persistent. Failed events wait in queues of
    the broker's, and what cannot be handled is in the consumer's queue of dead letters. A consumer
    gets what was sent since it first started.

    Args:
        url: `amqp://user:password@host:5672/vhost`, `amqps://` for TLS, or several of them, tried
            one after another.
        registrations: The consumers.
        queue_type: `"quorum"`, or `"classic"` where the broker is a single node and the queues are
            many. A queue that exists keeps its type, and another one is an error.
        prefetch: How many events a registration has at hand; by its concurrency if None.
        **options: Those of `BusOptions`.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        registrations: Iterable[IntegrationEventBusRegistration] | None = None,
        *,
        queue_type: QueueType = "quorum",
        prefetch: int | None = None,
        **options: Unpack[BusOptions],
    ) -> None:
        transport = RabbitMQTransport(
            url,
            timeout=options.get("send_timeout", 10.0),
            connect_timeout=options.get("connect_timeout", 5.0),
            queue_type=queue_type,
            prefetch=prefetch,
        )
        self._shown = repr(transport).partition("(")[2]
        super().__init__(transport, registrations, **options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._shown}"
