"""Traces of the handlers of domain events; needs the extra `opentelemetry`."""

from events.errors import MissingExtraError

try:
    import opentelemetry.trace as _  # noqa: F401 - whether it is there
except ImportError as error:
    raise MissingExtraError(__name__, "opentelemetry") from error

from events.domain.implementation.opentelemetry.observer import OpenTelemetryDomainObserver
from events.domain.observation import observe as instrument_domain_events

__all__ = ["OpenTelemetryDomainObserver", "instrument_domain_events"]
