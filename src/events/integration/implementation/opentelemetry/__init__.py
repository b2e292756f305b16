"""Traces and metrics of integration events; needs the extra `opentelemetry`."""

from events.errors import MissingExtraError

try:
    import opentelemetry.trace as _  # noqa: F401 - whether it is there
except ImportError as error:
    raise MissingExtraError(__name__, "opentelemetry") from error

from events.integration.implementation.opentelemetry.gauges import Measuring
from events.integration.implementation.opentelemetry.observer import (
    MeterProvider,
    OpenTelemetryObserver,
    TracerProvider,
)
from events.integration.observation import observe as instrument_integration_events

__all__ = [
    "Measuring",
    "MeterProvider",
    "OpenTelemetryObserver",
    "TracerProvider",
    "instrument_integration_events",
]
