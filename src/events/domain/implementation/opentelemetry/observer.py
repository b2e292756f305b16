"""`OpenTelemetryDomainObserver`: a span for each handler of a domain event."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from opentelemetry.trace import Tracer, TracerProvider, get_tracer_provider

from events.domain.event import DomainEvent
from events.domain.event_handler.handler import DomainEventHandler
from events.domain.observation import Observer


class OpenTelemetryDomainObserver(Observer):
    """Make the span `handle {event type}` of each handler, within the current one.

    Args:
        tracer_provider: Of the spans; the global one if None.
    """

    def __init__(self, *, tracer_provider: TracerProvider | None = None) -> None:
        self._tracer: Tracer = (tracer_provider or get_tracer_provider()).get_tracer("events")

    def handling(
        self, event: DomainEvent, handler: DomainEventHandler[Any]
    ) -> AbstractContextManager[Any]:
        """Make the span, current in the handler."""
        return self._tracer.start_as_current_span(
            f"handle {event.type}",
            attributes={
                "events.domain.event_type": event.type,
                "events.domain.handler": type(handler).__qualname__,
            },
        )
