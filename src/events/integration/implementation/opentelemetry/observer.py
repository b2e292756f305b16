"""`OpenTelemetryObserver`: what happens to events, as spans and metrics.

    request --> create orders (PRODUCER) ~~row~~> send orders (CLIENT, links each creation)
                     ^    ^
                     |    '-----link----- process orders (CONSUMER) --> create mails --> ...
                     '----------link----- settle orders (CLIENT)

The context of an event's creation travels with it and is never changed on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from opentelemetry.metrics import MeterProvider, get_meter_provider
from opentelemetry.trace import (
    TracerProvider,
    get_current_span,
    get_tracer_provider,
)

from events.errors import BusError
from events.integration.implementation.opentelemetry import conventions as names
from events.integration.implementation.opentelemetry._blocks import (
    Processing,
    Sending,
    SendingBatch,
    Settling,
    Telemetry,
)
from events.integration.implementation.opentelemetry._instruments import instruments_of
from events.integration.implementation.opentelemetry._places import place
from events.integration.message import Delivery, Message, Reject, Retry, Settlement
from events.integration.observation import Observer, TraceMode

__all__ = ["MeterProvider", "OpenTelemetryObserver", "TracerProvider"]


class OpenTelemetryObserver(Telemetry, Observer):
    """Make spans and metrics of what happens to events, with the API of OpenTelemetry.

    The application sets up the SDK, which exports them. Without an SDK, nothing is recorded.

    Args:
        tracer_provider: For the spans; by default the global one.
        meter_provider: For the metrics; by default the global one.
        baggage: Send the current baggage with events, and set it in the handler. Every receiver
            can read it.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        baggage: bool = False,
    ) -> None:
        tracers = tracer_provider or get_tracer_provider()
        self.tracer = tracers.get_tracer("events", schema_url=names.SCHEMA_URL)
        self.instruments = instruments_of(meter_provider or get_meter_provider())
        self.baggage = baggage

    # --- sending ------------------------------------------------------------------------------

    def created(self, message: Message) -> Message:
        """Make the span `create {topic}`, and have its context travel with the message."""
        at = place("create", None, message.topic, None)
        span, message = self.begin_creation(at, message)
        span.end()
        return message

    def sending(self, message: Message, system: str) -> AbstractContextManager[Message]:
        """Make the span `send {topic}`."""
        return Sending(self, message, system)

    def sending_batch(
        self, messages: Sequence[Message], system: str
    ) -> AbstractContextManager[list[BusError | Exception | None]]:
        """Make one span for them all, linked to the creation of each."""
        return SendingBatch(self, messages, system)

    # --- consuming ----------------------------------------------------------------------------

    def received(self, delivery: Delivery, system: str) -> None:
        """Count it."""
        if self.instruments.measure:
            topic, consumer = delivery.topic, delivery.consumer
            self.instruments.consumed.add(1, system, "receive", topic, consumer)

    def processing(
        self, delivery: Delivery, system: str, trace: TraceMode, mask: Callable[[str], str]
    ) -> AbstractContextManager[None]:
        """Make the span `process {topic}`, current in the handler."""
        return Processing(self, delivery, system, trace, mask)

    def retrying(self, delivery: Delivery, system: str, seconds: float) -> None:
        """Count it."""
        del seconds
        self.instruments.retries.add(1, system, delivery.topic, delivery.consumer)

    def settled(self, delivery: Delivery, system: str, settlement: Settlement) -> None:
        """Count those that are retried, and those that are given up."""
        if isinstance(settlement, Retry):
            self.retrying(delivery, system, settlement.after)
        elif isinstance(settlement, Reject):
            at = system, delivery.topic, delivery.consumer
            self.instruments.dead_letters.add(1, *at, settlement.reason)

    def settling(self, deliveries: Sequence[Delivery], system: str) -> AbstractContextManager[None]:
        """Make one span `settle {topic}` for them all, linked to the creation of each."""
        return Settling(self, deliveries, system)

    def duplicate(self, delivery: Delivery) -> None:
        """Count it, and record it in the span of its handling."""
        self.instruments.duplicates.add(1, delivery.topic, delivery.consumer)
        get_current_span().add_event("events.duplicate")

    def paused(self, consumer: str, system: str) -> None:
        """Count it until it is resumed."""
        del system
        self.instruments.paused.add(1, consumer, names.IN_PROCESS)

    def resumed(self, consumer: str, system: str) -> None:
        """Stop counting it."""
        del system
        self.instruments.paused.add(-1, consumer, names.IN_PROCESS)
