"""What this process has handled, in case its acknowledgement did not reach the broker."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeAlias

from events.integration.message import Delivery

__all__ = ["Handled", "Identity", "identity"]

Identity: TypeAlias = tuple[Hashable, ...]
"""What tells an event, and the attempt at it, from all others."""


def identity(delivery: Delivery) -> Identity:
    """Return what tells this delivery apart: an id is unique at its source alone (CloudEvents 1.0).

    Where no header names the source, the body tells: it may name it in there.
    """
    source = delivery.headers.get("ce-source")
    told = hash(delivery.body) if source is None else source
    return delivery.topic, delivery.id, delivery.attempt, told


class Handled:
    """Remember the last few, for one consumer on one topic.

    A broker never has more deliveries of a consumer unacknowledged than it may send ahead, so as
    many are enough: acknowledgements that were written to a dead connection are among the last.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._identities: dict[Identity, None] = {}  # an ordered set

    def add(self, identity: Identity) -> None:
        """Remember that this was handled well."""
        self._identities[identity] = None
        if len(self._identities) > self._limit:
            del self._identities[next(iter(self._identities))]

    def __contains__(self, identity: Identity) -> bool:
        return identity in self._identities
