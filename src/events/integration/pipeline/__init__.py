"""What happens around a delivery, whatever the broker."""

from events.integration.pipeline.middleware import Handle, IncomingEvent, Middleware

__all__ = ["Handle", "IncomingEvent", "Middleware"]
