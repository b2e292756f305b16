"""The processing of a delivery, the same for every broker."""

from events.integration.pipeline.middleware import (
    Handle,
    IncomingEvent,
    ManagedMiddleware,
    Middleware,
    Serving,
)

__all__ = ["Handle", "IncomingEvent", "ManagedMiddleware", "Middleware", "Serving"]
