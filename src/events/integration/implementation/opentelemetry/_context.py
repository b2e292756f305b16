"""Trace contexts, in headers and out of them: W3C Trace Context, and baggage."""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec.structs import replace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext, TraceFlags, TraceState

from events.integration.cloudevents import attribute
from events.integration.message import Delivery, Message, current_delivery
from events.integration.serialization import with_trace

__all__ = ["baggage_in", "context_of", "given_context", "stamped", "with_baggage"]

_BAGGAGE = W3CBaggagePropagator()
_parse = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
).fullmatch


def context_of(message: Message | Delivery) -> SpanContext | None:
    """Return the context in which a message was created, if it tells one."""
    headers = message.headers
    said = headers.get("traceparent") or attribute(headers, "traceparent")
    parsed = _parse(said) if said else None
    if parsed is None or (parsed[1] == "00" and parsed[5]):
        return None
    state = headers.get("tracestate") or attribute(headers, "tracestate")
    return SpanContext(
        int(parsed[2], 16),
        int(parsed[3], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(parsed[4], 16)),
        trace_state=TraceState.from_header([state]) if state else None,
    )


def given_context(message: Message) -> SpanContext | None:
    """Return the context that the caller gave a new message in its headers.

    One that was inherited from the delivery that is being handled is none: the span of its handler
    is current, and says more.
    """
    said = message.headers.get("traceparent")
    if said is None:
        return None
    cause = current_delivery()
    if cause is not None and said in (
        cause.headers.get("traceparent"),
        attribute(cause.headers, "traceparent"),
    ):
        return None
    return context_of(message)


def stamped(message: Message, span: Span) -> Message:
    """Return the message with the span's context for that of its creation."""
    context = span.get_span_context()
    if not context.is_valid:
        return message
    flags = context.trace_flags & 0xFF
    trace = {"traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"}
    if context.trace_state:
        trace["tracestate"] = context.trace_state.to_header()
    return with_trace(message, trace)


def with_baggage(message: Message) -> Message:
    """Return the message with the current baggage, unless it has some."""
    carrier: dict[str, str] = {}
    _BAGGAGE.inject(carrier)
    if not carrier or "baggage" in message.headers:
        return message
    return replace(message, headers={**message.headers, **carrier})


def baggage_in(headers: Mapping[str, str], context: Context) -> Context:
    """Return the context with the baggage that came along."""
    return _BAGGAGE.extract(headers, context) if "baggage" in headers else context
