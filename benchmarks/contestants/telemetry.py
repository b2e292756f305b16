"""FastStream's middleware for OpenTelemetry, around a message of NATS that goes nowhere."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

from faststream._internal.context import ContextRepo
from faststream.nats.message import NatsMessage
from faststream.nats.opentelemetry import NatsTelemetryMiddleware
from faststream.nats.response import NatsPublishCommand
from faststream.response.publish_type import PublishType
from nats.aio.msg import Msg
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider


def rows(
    tracers: TracerProvider,
    meters: MeterProvider,
    body: bytes,
    headers: Mapping[str, str],
    traced: Mapping[str, str],
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Do what it does around one message, each way; a broker creates it for each message."""
    middleware: Any = NatsTelemetryMiddleware(tracer_provider=tracers, meter_provider=meters)
    context: Any = ContextRepo()
    client: Any = None
    raw = Msg(client, subject="orders", data=body, headers=dict(traced))
    received = NatsMessage(raw, body, headers=dict(traced), message_id="1", correlation_id="1")

    async def going_on(_: object) -> None: ...

    def publish() -> None:
        command = NatsPublishCommand(
            body, subject="orders", headers=dict(headers), _publish_type=PublishType.PUBLISH
        )
        _finish(middleware(None, context=context).publish_scope(going_on, command))

    def consume() -> None:
        around = middleware(raw, context=context)
        _finish(around.consume_scope(going_on, received))
        _finish(around.after_processed())

    yield "FastStream, publish", publish
    yield "FastStream, consume", consume


def _finish(coroutine: Coroutine[Any, Any, object]) -> None:
    """Run what never waits."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")
