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
    ScheduledEvent,
    ScheduledRow,
    SearchedOutboxStore,
    WaitingRow,
    WatchedOutboxStore,
)
from events.integration.outbox.relay import OutboxRelay, RelayHealth, RelayStats, RelayStep
from events.integration.outbox.scheduling import NextSchedule, SchedulingStore

__all__ = [
    "PARTITIONS",
    "Backlog",
    "Lease",
    "NextSchedule",
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
    "ScheduledEvent",
    "ScheduledRow",
    "SchedulingStore",
    "SearchedOutboxStore",
    "WaitingRow",
    "WatchedOutboxStore",
    "partition_of",
]
