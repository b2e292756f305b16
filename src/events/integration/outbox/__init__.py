"""The outbox: events stored in the user's transaction, and sent afterwards, at least once."""

from events.integration.outbox._order import Order
from events.integration.outbox.lanes import LANES, Attendance, Lease, lane_of
from events.integration.outbox.port import (
    Backlog,
    Outbox,
    OutboxRow,
    OutboxStore,
    Parked,
    ParkedRow,
    Postponed,
)
from events.integration.outbox.relay import OutboxRelay, RelayHealth, RelayStats, RelayStep

__all__ = [
    "LANES",
    "Attendance",
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
    "lane_of",
]
