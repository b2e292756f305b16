"""What an event is due whose process has died: another delivery, or the end as a dead letter.

A process that dies says nothing, so all that it had at hand comes again: what ended it and what was
near. Transports count how often that happened to a message in a row (`Delivery.crashes`), and set
apart what may have ended a process, so that it is handled alone. What the count means is decided
here, for every broker:

- The first two mean nothing yet: the message may have been near what died, or not begun, and a
  broker says no more than that.
- From the third on, each is an attempt. The message is given up after `max_crashes` of them, or
  when no attempt is left.
"""

from __future__ import annotations

from msgspec.structs import replace

from events.integration.message import Delivery
from events.integration.topology import RetryPolicy

__all__ = ["FEWEST", "UNCOUNTED", "counted", "is_given_up", "times_tried"]

UNCOUNTED = 2
FEWEST = UNCOUNTED + 1
"""The smallest `max_crashes`."""


def counted(delivery: Delivery) -> Delivery:
    """Return a delivery after more crashes than `UNCOUNTED` with the attempts that they are."""
    return replace(delivery, attempt=delivery.attempt + delivery.crashes - UNCOUNTED)


def is_given_up(delivery: Delivery, policy: RetryPolicy, max_crashes: int) -> bool:
    """Tell whether this one, its attempts counted, is to be handled no more."""
    return delivery.crashes >= max_crashes or delivery.attempt > policy.attempts


def times_tried(delivery: Delivery) -> int:
    """Return how often this one, its attempts counted, was delivered before."""
    return delivery.attempt - 1 + min(delivery.crashes, UNCOUNTED)
