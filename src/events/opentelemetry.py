"""Traces and metrics of events, by the API of OpenTelemetry.

Needs the extra `opentelemetry`: `pip install "integration-events[opentelemetry]"`. The SDK, and
where its data goes, is the application's choice.
"""

from events.domain.implementation.opentelemetry import (
    OpenTelemetryDomainObserver,
    instrument_domain_events,
)
from events.integration.implementation.opentelemetry import (
    Measuring,
    MeterProvider,
    OpenTelemetryObserver,
    TracerProvider,
    instrument_integration_events,
)

__all__ = [
    "Measuring",
    "OpenTelemetryDomainObserver",
    "OpenTelemetryObserver",
    "instrument",
    "uninstrument",
]


def instrument(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    baggage: bool = False,
) -> None:
    """Trace and measure all buses, outboxes, relays, inboxes and dispatchers of this process.

    Call it once, at the start, after the SDK is set up. A provider that is None is the global one.
    `baggage` sends the current baggage along with events: whoever receives them can read it.
    """
    instrument_integration_events(
        OpenTelemetryObserver(
            tracer_provider=tracer_provider, meter_provider=meter_provider, baggage=baggage
        )
    )
    instrument_domain_events(OpenTelemetryDomainObserver(tracer_provider=tracer_provider))


def uninstrument() -> None:
    """Undo `instrument`."""
    instrument_integration_events(None)
    instrument_domain_events(None)
