"""Traces and metrics of events, with the API of OpenTelemetry.

Needs the extra `opentelemetry`: `pip install "integration-events[opentelemetry]"`. The application
chooses and configures the SDK.
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

    Call it once, at startup, after the SDK is set up. None means the global provider. `baggage`
    sends the current baggage along with events; every receiver can read it.
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
