"""Events that this process has handled, in case an acknowledgement did not reach the broker."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import islice
from typing import TypeAlias

from events.integration.message import Delivery

Identity: TypeAlias = tuple[Hashable, ...]
"""The identity of an event and its attempt."""


def identity(delivery: Delivery) -> Identity:
    """Return what tells this delivery apart: an id is unique at its source alone (CloudEvents 1.0).

    Where no header names the source, the body tells: it may name it in there.
    """
    source = delivery.headers.get("ce-source")
    mark = hash(delivery.body) if source is None else source
    return delivery.topic, delivery.id, delivery.attempt, mark


class Handled:
    """Remember the last `limit` that were handled, or an eighth more: of one consumer on one topic.

    A broker never has more deliveries of a consumer unacknowledged than it may send ahead, so as
    many are enough: acknowledgements that were written to a dead connection are among the last.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._most = limit + limit // 8
        self._identities: dict[Hashable, None] = {}  # an ordered set

    def add(self, identity: Hashable) -> None:
        """Remember that this was handled well."""
        self._identities[identity] = None
        if len(self._identities) > self._most:
            # Many at once: to find the first one, a dict passes over all that were before it.
            for old in [*islice(self._identities, len(self._identities) - self._limit)]:
                del self._identities[old]

    def __contains__(self, identity: Hashable) -> bool:
        return identity in self._identities

    def clear(self) -> None:
        """Forget all."""
        self._identities.clear()
