"""The service as others see it: a consumer of events."""
