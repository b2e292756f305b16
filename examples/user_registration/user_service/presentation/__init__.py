"""The service as others see it: HTTP."""
