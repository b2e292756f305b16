"""Deliveries that are not acknowledged: on their channel, or left behind by one that was lost."""

from __future__ import annotations

from typing import Any

from events.integration.brokering.backoff import Backoff
from events.integration.brokering.handled import Identity
from events.integration.implementation.rabbitmq import _wire as wire
from events.integration.implementation.rabbitmq._channel import Channel
from events.integration.implementation.rabbitmq._driver import Properties
from events.integration.message import Settlement

__all__ = ["FIRST_PAUSE", "LASTS", "Held", "Orphans"]

FIRST_PAUSE = 0.2  # seconds before something is tried again; each next one is twice as long
LASTS = 10.0  # seconds that something was up, and pauses begin anew when it is lost
_MOST_ORPHANS = 10_000  # that are remembered when their handlers have ended


class Held:
    """A delivery that is not acknowledged."""

    __slots__ = (
        "_identity", "backoff", "body", "channel", "crashes", "handled_as", "properties",
        "quarantined", "settlement", "tag", "type",
    )  # fmt: skip

    def __init__(
        self,
        channel: Channel,
        method: Any,
        properties: Properties,
        body: bytes,
        *,
        quarantined: bool,
    ) -> None:
        self.channel = channel
        self.tag: int = method.delivery_tag
        self.type: str = properties.type or method.routing_key
        self.properties = properties
        self.body = body
        self.quarantined = quarantined
        self.crashes = 0
        if quarantined:
            self.crashes = wire.crashes_of(properties)
        elif method.redelivered:
            self.crashes = wire.returns_of(properties, redelivered=True)
        self.settlement: Settlement | None = None
        self.backoff: Backoff | None = None  # once it could not be moved
        self.handled_as: Identity | None = None  # once a handler has it, unless that failed
        self._identity: tuple[str, str, int, int] | None = None

    @property
    def identity(self) -> tuple[str, str, int, int]:
        """Return what tells it from other deliveries; the same when it comes again."""
        if self._identity is None:  # once, as its body may be dropped before it is
            self._identity = wire.identity(self.properties, self.body)
        return self._identity


class Orphans:
    """Deliveries whose channel was lost, and which may come again: to us, or to another process."""

    def __init__(self) -> None:
        self._orphans: dict[tuple[str, str, int, int], Held] = {}

    def add(self, held: Held) -> None:
        """Remember one."""
        self._orphans[held.identity] = held

    def take(self, held: Held) -> Held | None:
        """Return the one that has come again as this one, and forget it."""
        return self._orphans.pop(held.identity, None)

    def forget(self, held: Held) -> None:
        """Forget one that nothing will settle: if it comes again, it is a delivery like others."""
        if self._orphans.get(held.identity) is held:
            del self._orphans[held.identity]

    def forget_old(self) -> None:
        """Forget the oldest of too many."""
        while len(self._orphans) > _MOST_ORPHANS:
            del self._orphans[next(iter(self._orphans))]

    def clear(self) -> None:
        """Forget all."""
        self._orphans.clear()
