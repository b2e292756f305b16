"""Buses, outboxes and what ties them to other libraries. Import each from its own module."""
