"""Deliveries whose process died: they become attempts, and finally dead letters.

The broker redelivers all messages that a dead process had in flight: the one that killed it, and
the others. Transports count how often in a row that happened to a message (`Delivery.crashes`), and
quarantine messages that may have killed a process: these are handled alone. This module decides
what the count means, for every broker:

- The first two crashes do not count: the message may have been in flight with another one that
  killed the process, and a broker does not know which.
- From the third on, each crash is an attempt. The message becomes a dead letter after `max_crashes`
  crashes, or when no attempt is left.
"""

from __future__ import annotations

from msgspec.structs import replace

from events.integration.message import Delivery
from events.integration.topology import RetryPolicy

UNCOUNTED = 2
FEWEST = UNCOUNTED + 1
"""The smallest `max_crashes`."""


def counted(delivery: Delivery) -> Delivery:
    """Return a delivery with its crashes beyond `UNCOUNTED` counted as attempts."""
    return replace(delivery, attempt=delivery.attempt + delivery.crashes - UNCOUNTED)


def is_given_up(delivery: Delivery, policy: RetryPolicy, max_crashes: int) -> bool:
    """Return whether a delivery has used up its attempts."""
    return delivery.crashes >= max_crashes or delivery.attempt > policy.attempts


def times_tried(delivery: Delivery) -> int:
    """Return how often a delivery, with its crashes counted, was delivered before."""
    return delivery.attempt - 1 + min(delivery.crashes, UNCOUNTED)
