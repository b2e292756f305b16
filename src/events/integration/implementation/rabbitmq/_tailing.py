"""A topic as one sees it who only looks: by a queue that ends with the connection.

The exchange is direct, so the queue is bound by type, and shows those types alone. It is exclusive
and deletes itself: the broker removes it when its connection ends, however that ends. It is bounded
and drops its oldest, so a reader that stands still costs the broker little and its consumers
nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

from events.errors import InvalidTopologyError
from events.integration.cloudevents import attribute
from events.integration.implementation.rabbitmq import _wire as wire
from events.integration.implementation.rabbitmq._connection import Connection
from events.integration.implementation.rabbitmq._driver import (
    DriverError,
    Properties,
    RefusedError,
)
from events.integration.message import Message

_BOUND = {"x-max-length": 10_000, "x-overflow": "drop-head"}
_PREFETCH = 1_000
_NOT_FOUND = 404


async def tail_exchange(
    connection: Connection,
    answer_within: float,
    topic: str,
    types: Collection[str],
    show: Callable[[Message], object],
    begun: Callable[[], object],
) -> None:
    """Show what comes to the exchange from now on, until cancelled."""
    if not types:
        raise InvalidTopologyError(
            f"topic {topic!r}",
            "RabbitMQ routes by the type of an event, and the application has none on it: name "
            "types, as with --type",
        )
    channel = await connection.channel(answer_within)
    lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def closed(reason: DriverError) -> None:
        if not lost.done():
            lost.set_exception(reason)

    def receive(_: Any, method: Any, properties: Properties, body: bytes) -> None:
        show(_message(topic, method.routing_key, properties, body))
        channel.ack(method.delivery_tag)

    channel.on_closed = closed
    try:
        made = await channel.call(
            "queue_declare", queue="", exclusive=True, auto_delete=True, arguments=_BOUND
        )
        queue: str = made.method.queue
        for type_ in sorted(types):
            await channel.call("queue_bind", queue=queue, exchange=topic, routing_key=type_)
        await channel.consume(queue, receive, prefetch=_PREFETCH, exclusive=True)
        begun()
        await lost
    except RefusedError as error:
        if error.code != _NOT_FOUND:
            raise
        raise InvalidTopologyError(
            f"topic {topic!r}",
            f"RabbitMQ has no exchange {topic!r}: nothing was ever sent to it; see "
            f"`events describe` for the names of topics",
        ) from error
    finally:
        if lost.done() and not lost.cancelled():
            lost.exception()  # else the loop logs it as never retrieved
        await channel.close()


def _message(topic: str, type: str, properties: Properties, body: bytes) -> Message:
    seen = wire.to_delivery(properties, body, topic=topic, consumer="", attempt=1, crashes=0)
    said = attribute(seen.headers, "type") or type
    return Message(topic, said, seen.id, body, seen.headers, seen.key)
