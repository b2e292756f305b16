"""What happens around a delivery, whatever the broker."""

from events.integration.pipeline.middleware import (
    Handle,
    IncomingEvent,
    ManagedMiddleware,
    Middleware,
    Serving,
)

__all__ = ["Handle", "IncomingEvent", "ManagedMiddleware", "Middleware", "Serving"]
