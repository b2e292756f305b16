"""The outbox: events stored in the user's transaction, and sent afterwards, at least once."""

from events.integration.outbox._order import Order
from events.integration.outbox.partitions import PARTITIONS, Lease, Renewal, partition_of
from events.integration.outbox.port import (
    Backlog,
    Outbox,
    OutboxRow,
    OutboxStore,
    Parked,
    ParkedRow,
    Postponed,
    ScheduledRow,
    WatchedOutboxStore,
)
from events.integration.outbox.relay import OutboxRelay, RelayHealth, RelayStats, RelayStep

__all__ = [
    "PARTITIONS",
    "Backlog",
    "Lease",
    "Order",
    "Outbox",
    "OutboxRelay",
    "OutboxRow",
    "OutboxStore",
    "Parked",
    "ParkedRow",
    "Postponed",
    "RelayHealth",
    "RelayStats",
    "RelayStep",
    "Renewal",
    "ScheduledRow",
    "WatchedOutboxStore",
    "partition_of",
]
