"""What this process has handled, in case its acknowledgement did not reach the broker."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeAlias

__all__ = ["Handled", "Identity", "identity"]

Identity: TypeAlias = tuple[Hashable, ...]
"""What tells one event from all others of its topic."""


def identity(id: str, headers: Mapping[str, object], body: bytes) -> Identity:
    """Return what tells this event apart: an id is unique at its source alone (CloudEvents 1.0).

    Where no header names the source, the body tells: it may name it in there.
    """
    source = headers.get("ce-source")
    return (id, source) if isinstance(source, str) else (id, hash(body))


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
