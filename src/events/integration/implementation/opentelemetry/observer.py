"""`OpenTelemetryObserver`: what happens to events, as spans and metrics.

    request --> create orders (PRODUCER) ~~row~~> send orders (CLIENT, links each creation)
                     ^
                     '------link------ process orders (CONSUMER) --> create mails --> ...

The context of an event's creation travels with it and is never changed on the way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import Token
from datetime import datetime
from traceback import format_exception
from types import TracebackType
from typing import Generic, TypeVar

from opentelemetry import context as contexts
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider, get_meter_provider
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanKind,
    StatusCode,
    Tracer,
    TracerProvider,
    get_current_span,
    get_tracer_provider,
    set_span_in_context,
)

from events.errors import BusError
from events.integration.cloudevents import attribute
from events.integration.implementation.opentelemetry import conventions as names
from events.integration.implementation.opentelemetry._context import (
    baggage_in,
    context_of,
    given_context,
    stamped,
    with_baggage,
)
from events.integration.implementation.opentelemetry._instruments import (
    Instruments,
    consumer_attributes,
    metric_attributes,
    span_attributes,
)
from events.integration.message import Delivery, Message, Reject, Retry, Settlement
from events.integration.observation import Observer, TraceMode

__all__ = ["MeterProvider", "OpenTelemetryObserver", "TracerProvider"]

T = TypeVar("T")
_SCOPE = "events"
_ROOT = Context()
_clock = time.perf_counter


class OpenTelemetryObserver(Observer):
    """Make spans and metrics of what happens to events, by the API of OpenTelemetry.

    Where they go is up to the application, which sets up the SDK. Without one, nothing is made.

    Args:
        tracer_provider: Of the spans; the global one if None.
        meter_provider: Of the metrics; the global one if None.
        baggage: Send the current baggage along, and make what came along current in the handler.
            Whoever receives the event can read it.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        baggage: bool = False,
    ) -> None:
        tracers = tracer_provider or get_tracer_provider()
        meters = meter_provider or get_meter_provider()
        self.tracer: Tracer = tracers.get_tracer(_SCOPE, schema_url=names.SCHEMA_URL)
        self.instruments = Instruments(meters.get_meter(_SCOPE, schema_url=names.SCHEMA_URL))
        self.baggage = baggage

    # --- sending ------------------------------------------------------------------------------

    def created(self, message: Message) -> Message:
        """Make the span `create {topic}`, and have its context travel with the message."""
        span, message = self.start_creation("create", message, None)
        span.end()
        return message

    def start_creation(
        self, operation: str, message: Message, system: str | None
    ) -> tuple[Span, Message]:
        """Begin the span in which a message is created, and give the message its context."""
        given = given_context(message)
        span = self.tracer.start_span(
            f"{operation} {message.topic}",
            kind=SpanKind.PRODUCER,
            attributes=span_attributes(operation, system, message.topic),
            links=() if given is None else (Link(given),),
        )
        if span.is_recording():
            _describe(span, message)
        if given is None:
            message = stamped(message, span)
        return span, with_baggage(message) if self.baggage else message

    def sending(self, message: Message, system: str) -> AbstractContextManager[Message]:
        """Make the span `send {topic}`."""
        return _Sending(self, message, system)

    def sending_batch(
        self, messages: Sequence[Message], system: str
    ) -> AbstractContextManager[list[BusError | Exception | None]]:
        """Make one span for them all, linked to the creation of each."""
        return _SendingBatch(self, messages, system)

    def count_sent(self, system: str, topic: str, error: BaseException | None, count: int) -> None:
        """Count messages of one topic that were sent, or failed to be."""
        attributes = metric_attributes("send", system, topic, None, _type_of(error))
        self.instruments.sent.add(count, attributes)

    # --- consuming ----------------------------------------------------------------------------

    def received(self, delivery: Delivery, system: str) -> None:
        """Count it."""
        attributes = metric_attributes("receive", system, delivery.topic, delivery.consumer)
        self.instruments.consumed.add(1, attributes)

    def processing(
        self, delivery: Delivery, system: str, trace: TraceMode, mask: Callable[[str], str]
    ) -> AbstractContextManager[None]:
        """Make the span `process {topic}`, current in the handler."""
        return _Processing(self, delivery, system, trace, mask)

    def retrying(self, delivery: Delivery, system: str, seconds: float) -> None:
        """Count it."""
        del seconds
        attributes = consumer_attributes(system, delivery.topic, delivery.consumer)
        self.instruments.retries.add(1, attributes)

    def settled(self, delivery: Delivery, system: str, settlement: Settlement) -> None:
        """Count those that are retried, and those that are given up."""
        if isinstance(settlement, Retry):
            self.retrying(delivery, system, settlement.after)
        elif isinstance(settlement, Reject):
            attributes = consumer_attributes(
                system, delivery.topic, delivery.consumer, settlement.reason
            )
            self.instruments.dead_letters.add(1, attributes)

    def duplicate(self, delivery: Delivery) -> None:
        """Count it, and say so in the span of its handling."""
        attributes = consumer_attributes(None, delivery.topic, delivery.consumer)
        self.instruments.duplicates.add(1, attributes)
        get_current_span().add_event("events.duplicate")


class _Around(AbstractContextManager[T], Generic[T]):
    """A span around a block, with a duration."""

    def __init__(self, observer: OpenTelemetryObserver, mask: Callable[[str], str] = str) -> None:
        self.observer = observer
        self.mask = mask
        self.begun = _clock()

    def end(self, span: Span, error: BaseException | None) -> None:
        if error is not None and span.is_recording():
            span.set_attribute(names.ERROR, _type_of(error) or "_OTHER")
            span.set_status(StatusCode.ERROR, self.mask(str(error)) or None)
            written = self.mask("".join(format_exception(error)))
            span.record_exception(
                error,
                {"exception.message": self.mask(str(error)), "exception.stacktrace": written},
            )
        span.end()


class _Sending(_Around[Message]):
    def __init__(self, observer: OpenTelemetryObserver, message: Message, system: str) -> None:
        super().__init__(observer)
        self.message = message
        self.system = system

    def __enter__(self) -> Message:
        start = self.observer.start_creation
        self.span, message = start("send", self.message, self.system)
        return message

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        topic = self.message.topic
        attributes = metric_attributes("send", self.system, topic, None, _type_of(exc))
        self.observer.instruments.send_duration.record(_clock() - self.begun, attributes)
        self.observer.count_sent(self.system, topic, exc, 1)
        self.end(self.span, exc)


class _SendingBatch(_Around["list[BusError | Exception | None]"]):
    def __init__(
        self, observer: OpenTelemetryObserver, messages: Sequence[Message], system: str
    ) -> None:
        super().__init__(observer)
        self.messages = messages
        self.system = system
        self.outcomes: list[BusError | Exception | None] = []

    def __enter__(self) -> list[BusError | Exception | None]:
        topics = {message.topic for message in self.messages}
        self.topic = topics.pop() if len(topics) == 1 else None
        created = [context for each in self.messages if (context := context_of(each)) is not None]
        # A relay runs in the context of whoever started it, and does not belong to that trace.
        here = get_current_span().get_span_context().trace_id
        belongs = any(context.trace_id == here for context in created)
        self.span = self.observer.tracer.start_span(
            f"send {self.topic}" if self.topic else "send",
            None if belongs else _ROOT,
            kind=SpanKind.CLIENT,
            attributes={
                **span_attributes("send", self.system, self.topic),
                names.BATCH: len(self.messages),
            },
            links=[Link(context) for context in created],
        )
        return self.outcomes

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        failed: BaseException | None = next(filter(None, self.outcomes), exc)
        counts: dict[tuple[str, str | None], int] = {}
        errors: dict[str | None, BaseException | None] = {}
        outcomes: Sequence[BaseException | None] = self.outcomes or [exc] * len(self.messages)
        for message, outcome in zip(self.messages, outcomes, strict=True):
            of = _type_of(outcome)
            errors[of] = outcome
            counts[message.topic, of] = counts.get((message.topic, of), 0) + 1
        for (topic, of), count in counts.items():
            self.observer.count_sent(self.system, topic, errors[of], count)
        attributes = metric_attributes("send", self.system, self.topic, None, _type_of(failed))
        self.observer.instruments.send_duration.record(_clock() - self.begun, attributes)
        self.end(self.span, failed)


class _Processing(_Around[None]):
    def __init__(
        self,
        observer: OpenTelemetryObserver,
        delivery: Delivery,
        system: str,
        trace: TraceMode,
        mask: Callable[[str], str],
    ) -> None:
        super().__init__(observer, mask)
        self.delivery = delivery
        self.system = system
        self.trace = trace

    def __enter__(self) -> None:
        delivery, observer = self.delivery, self.observer
        created = context_of(delivery)
        context = _ROOT
        if created is not None and self.trace == "parent" and delivery.attempt == 1:
            context = set_span_in_context(NonRecordingSpan(created), context)
        if observer.baggage:
            context = baggage_in(delivery.headers, context)
        self.span = observer.tracer.start_span(
            f"process {delivery.topic}",
            context,
            kind=SpanKind.CONSUMER,
            attributes=span_attributes("process", self.system, delivery.topic, delivery.consumer),
            links=() if created is None else (Link(created),),
        )
        if self.span.is_recording():
            _describe(self.span, delivery)
            self.span.set_attribute(names.ATTEMPT, delivery.attempt)
        self.at = consumer_attributes(self.system, delivery.topic, delivery.consumer)
        observer.instruments.in_flight.add(1, self.at)
        self.token: Token[Context] = contexts.attach(set_span_in_context(self.span, context))

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:  # else what is logged of the failure belongs to it; the task is its own
            contexts.detach(self.token)
        delivery, instruments = self.delivery, self.observer.instruments
        instruments.in_flight.add(-1, self.at)
        attributes = metric_attributes(
            "process", self.system, delivery.topic, delivery.consumer, _type_of(exc)
        )
        instruments.process_duration.record(_clock() - self.begun, attributes)
        if exc is None and (lag := _age(delivery)) is not None:
            instruments.lag.record(lag, self.at)
        self.end(self.span, exc)


def _describe(span: Span, message: Message | Delivery) -> None:
    """Add what tells this message from others."""
    attributes: dict[str, str | int] = {
        names.MESSAGE_ID: message.id,
        names.CONVERSATION: message.correlation_id,
        names.BODY_SIZE: len(message.body),
        names.EVENT_ID: message.id,
    }
    for name, said in ((names.EVENT_TYPE, "type"), (names.EVENT_SOURCE, "source")):
        value = attribute(message.headers, said)
        if value:
            attributes[name] = value
    span.set_attributes(attributes)


def _type_of(error: BaseException | None) -> str | None:
    """Name the class of an error, as `error.type` has it: bounded in number, unlike its text."""
    if error is None:
        return None
    of = type(error)
    return of.__qualname__ if of.__module__ == "builtins" else f"{of.__module__}.{of.__qualname__}"


def _age(delivery: Delivery) -> float | None:
    """Return the seconds since the event was created, by the clocks of two machines."""
    said = attribute(delivery.headers, "time")
    try:
        created = datetime.fromisoformat(said) if said else None
    except ValueError:
        return None
    if created is None or created.tzinfo is None:
        return None
    return max(0.0, time.time() - created.timestamp())
