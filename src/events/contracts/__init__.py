"""Contracts between services: a lock file of their events, AsyncAPI documents, and a catalog.

They are made of what exists already: event classes, registrations and upcasters, and of a
`Service`, which says what is sent. The command `events` has the verbs.
"""

from events.contracts.service import Service
from events.integration.personal import PII

__all__ = ["PII", "Service"]
