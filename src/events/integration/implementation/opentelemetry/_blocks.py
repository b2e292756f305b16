"""Spans around blocks, with what is measured of them.

They are written out rather than generators with `use_span`, whose machinery costs as much as a span
that is sampled out. What describes a single event is gathered for spans that are recorded alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextvars import Token
from datetime import datetime
from traceback import format_exception
from types import TracebackType

from opentelemetry import context as contexts
from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanKind,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)

from events.errors import BusError
from events.integration._attributes import attribute, decoded
from events.integration.implementation.opentelemetry import conventions as names
from events.integration.implementation.opentelemetry._context import (
    baggage_in,
    creation_of,
    given_creation,
    is_in_trace,
    stamped,
    with_baggage,
)
from events.integration.implementation.opentelemetry._instruments import Instruments
from events.integration.implementation.opentelemetry._places import Place, place, type_of
from events.integration.message import Delivery, Message
from events.integration.observation import TraceMode

_ROOT = Context()
_clock = time.perf_counter


class Telemetry:
    """The state that an observer shares with its blocks."""

    tracer: Tracer
    instruments: Instruments
    baggage: bool

    def begin_creation(self, at: Place, message: Message) -> tuple[Span, Message]:
        """Begin the span in which a message is created, and give the message its context."""
        given = given_creation(message)
        span = self.tracer.start_span(
            at.name, kind=SpanKind.PRODUCER, attributes=at.attributes, links=given
        )
        if span.is_recording():
            describe(span, message)
        if not given:
            message = stamped(message, span)
        return span, with_baggage(message) if self.baggage else message


class Sending:
    """Around one `send`."""

    __slots__ = ("_begun", "_message", "_observer", "_place", "_span", "_system")

    def __init__(self, observer: Telemetry, message: Message, system: str) -> None:
        self._observer = observer
        self._message = message
        self._system = system

    def __enter__(self) -> Message:
        message, observer = self._message, self._observer
        self._begun = _clock()
        self._place = at = place("send", self._system, message.topic, None)
        self._span, stamped = observer.begin_creation(at, message)
        return stamped

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        instruments = self._observer.instruments
        if instruments.measure:
            instruments.duration.record(_clock() - self._begun, self._place.measured(exc))
            instruments.sent.add(1, self._system, "send", self._message.topic, type_of(exc))
        _end(self._span, exc)


class SendingBatch:
    """Around many messages at once. The block appends the outcome of each."""

    __slots__ = ("_begun", "_messages", "_observer", "_outcomes", "_place", "_span", "_system")

    def __init__(self, observer: Telemetry, messages: Sequence[Message], system: str) -> None:
        self._observer = observer
        self._messages = messages
        self._system = system
        self._outcomes: list[BusError | Exception | None] = []

    def __enter__(self) -> list[BusError | Exception | None]:
        messages = self._messages
        self._begun = _clock()
        self._place = place("send", self._system, _only({each.topic for each in messages}), None)
        # A relay runs in the context of the code that started it, but is not part of that trace.
        here = get_current_span().get_span_context().trace_id
        belongs = here and any(is_in_trace(each, here) for each in messages)
        self._span = _begin_batch(self._observer, self._place, messages, None if belongs else _ROOT)
        return self._outcomes

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        failed: BaseException | None = next(filter(None, self._outcomes), exc)
        instruments = self._observer.instruments
        if instruments.measure:
            outcomes: Sequence[BaseException | None] = self._outcomes or [exc] * len(self._messages)
            counts: dict[tuple[str, str | None], int] = {}
            for message, outcome in zip(self._messages, outcomes, strict=True):
                of = message.topic, type_of(outcome)
                counts[of] = counts.get(of, 0) + 1
            for (topic, error), count in counts.items():
                instruments.sent.add(count, self._system, "send", topic, error)
            instruments.duration.record(_clock() - self._begun, self._place.measured(failed))
        _end(self._span, failed)


class Settling:
    """Around a round trip that settles deliveries. It belongs to none of their traces."""

    __slots__ = ("_begun", "_deliveries", "_observer", "_place", "_span", "_system")

    def __init__(self, observer: Telemetry, deliveries: Sequence[Delivery], system: str) -> None:
        self._observer = observer
        self._deliveries = deliveries
        self._system = system

    def __enter__(self) -> None:
        deliveries = self._deliveries
        self._begun = _clock()
        self._place = place(
            "settle",
            self._system,
            _only({each.topic for each in deliveries}),
            _only({each.consumer for each in deliveries}),
        )
        self._span = _begin_batch(self._observer, self._place, deliveries, _ROOT)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        instruments = self._observer.instruments
        if instruments.measure:
            instruments.duration.record(_clock() - self._begun, self._place.measured(exc))
        _end(self._span, exc)


class Processing:
    """Around one attempt to handle a delivery, current in the handler."""

    __slots__ = (
        "_begun",
        "_delivery",
        "_mask",
        "_observer",
        "_place",
        "_span",
        "_system",
        "_token",
        "_trace",
    )

    def __init__(
        self,
        observer: Telemetry,
        delivery: Delivery,
        system: str,
        trace: TraceMode,
        mask: Callable[[str], str],
    ) -> None:
        self._observer = observer
        self._delivery = delivery
        self._system = system
        self._trace = trace
        self._mask = mask

    def __enter__(self) -> None:
        delivery, observer, system = self._delivery, self._observer, self._system
        topic, consumer = delivery.topic, delivery.consumer
        self._begun = _clock()
        self._place = at = place("process", system, topic, consumer)
        created, context = creation_of(delivery), _ROOT
        if self._trace == "parent" and delivery.attempt == 1 and not delivery.redriven:
            for link in created:
                context = set_span_in_context(NonRecordingSpan(link.context), context)
        if observer.baggage:
            context = baggage_in(delivery.headers, context)
        self._span = span = observer.tracer.start_span(
            at.name, context, kind=SpanKind.CONSUMER, attributes=at.attributes, links=created
        )
        if span.is_recording():
            describe(span, delivery, delivery.attempt)
        if observer.instruments.measure:
            observer.instruments.in_flight.add(1, system, topic, consumer)
        self._token: Token[Context] = contexts.attach(set_span_in_context(span, context))

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:  # else what is logged of the failure belongs to it; the task is its own
            contexts.detach(self._token)
        delivery, instruments = self._delivery, self._observer.instruments
        if instruments.measure:
            instruments.in_flight.add(-1, self._system, delivery.topic, delivery.consumer)
            taken = _clock() - self._begun
            instruments.process_duration.record(taken, self._place.measured(exc))
            if exc is None and (lag := _age(delivery)) is not None:
                instruments.lag.record(lag, self._place.at)
        _end(self._span, exc, self._mask)


def describe(span: Span, message: Message | Delivery, attempt: int | None = None) -> None:
    """Add what tells this message from others."""
    said, name = message.headers.get, message.id
    conversation = said("ce-correlationid")
    attributes: dict[str, str | int] = {
        names.MESSAGE_ID: name,
        names.CONVERSATION: decoded(conversation) if conversation else name,
        names.BODY_SIZE: len(message.body),
        names.EVENT_ID: name,
    }
    if of := said("ce-type"):
        attributes[names.EVENT_TYPE] = decoded(of)
    if source := said("ce-source"):
        attributes[names.EVENT_SOURCE] = decoded(source)
    if attempt is not None:
        attributes[names.ATTEMPT] = attempt
    span.set_attributes(attributes)


def _begin_batch(
    observer: Telemetry,
    at: Place,
    messages: Sequence[Message] | Sequence[Delivery],
    context: Context | None,
) -> Span:
    return observer.tracer.start_span(
        at.name,
        context,
        kind=SpanKind.CLIENT,
        attributes={**at.attributes, names.BATCH: len(messages)},
        links=[link for each in messages for link in creation_of(each)],
    )


def _only(values: set[str]) -> str | None:
    return values.pop() if len(values) == 1 else None


def _end(span: Span, error: BaseException | None, mask: Callable[[str], str] = str) -> None:
    if error is not None and span.is_recording():
        text = mask(str(error))
        span.set_attribute(names.ERROR, type_of(error) or "_OTHER")
        span.set_status(StatusCode.ERROR, text or None)
        written = mask("".join(format_exception(error)))
        span.record_exception(error, {"exception.message": text, "exception.stacktrace": written})
    span.end()


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
