"""The outbox: events stored in the user's transaction, and sent afterwards, at least once."""

from events.integration.outbox.port import Outbox, OutboxRow, OutboxStore, Postponed
from events.integration.outbox.relay import OutboxRelay, RelayHealth, RelayStep

__all__ = [
    "Outbox",
    "OutboxRelay",
    "OutboxRow",
    "OutboxStore",
    "Postponed",
    "RelayHealth",
    "RelayStep",
]
