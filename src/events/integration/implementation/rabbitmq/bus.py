"""The bus over RabbitMQ 3.10 to 4.x."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Unpack

from events.integration.implementation.base import BusOptions, TransportIntegrationEventBus
from events.integration.implementation.rabbitmq._topology import QueueType
from events.integration.implementation.rabbitmq.transport import RabbitMQTransport
from events.integration.topology import IntegrationEventBusRegistration


class RabbitMQIntegrationEventBus(TransportIntegrationEventBus):
    """Carry events over RabbitMQ: a topic is a durable exchange, a consumer a durable queue.

    `send` returns when the broker has confirmed the persistent message. Failed events wait in
    queues at the broker, and events that cannot be handled are in the consumer's queue of dead
    letters. A consumer gets the events that were sent since its first start.

    Args:
        url: `amqp://user:password@host:5672/vhost`, `amqps://` for TLS, or several of them, tried
            one after another.
        registrations: The consumers.
        queue_type: `"quorum"`, or `"classic"` for a single node with many queues. The type of an
            existing queue cannot change: another one raises an error.
        prefetch: How many events a registration has in flight; by default according to its
            concurrency.
        **options: See `BusOptions`.
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
