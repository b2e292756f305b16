"""Deliveries that are not acknowledged: on their channel, or left behind by one that was lost."""

from __future__ import annotations

from typing import Any

from events.integration.brokering.backoff import Backoff
from events.integration.brokering.handled import Identity
from events.integration.implementation.rabbitmq import _wire as wire
from events.integration.implementation.rabbitmq._channel import Channel
from events.integration.implementation.rabbitmq._driver import Properties
from events.integration.message import Settlement

_MOST_ORPHANS = 10_000  # that are remembered when their handlers have ended


class InFlight:
    """A delivery that is not acknowledged."""

    __slots__ = (
        "_identity", "backoff", "body", "channel", "crashes", "handled_as", "properties",
        "quarantined", "settlement", "tag",
    )  # fmt: skip

    def __init__(
        self,
        channel: Channel,
        method: Any,
        properties: Properties,
        body: bytes,
        quarantined: bool,  # noqa: FBT001 - one place makes them, for each delivery
    ) -> None:
        self.channel = channel
        self.tag: int = method.delivery_tag
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
        """Return what tells it from other deliveries; the same when it is redelivered."""
        if self._identity is None:  # once, as its body may be dropped before it is
            self._identity = wire.identity(self.properties, self.body)
        return self._identity


class Orphans:
    """Deliveries whose channel was lost, and which may be redelivered: here, or elsewhere."""

    def __init__(self) -> None:
        self._orphans: dict[tuple[str, str, int, int], InFlight] = {}

    def add(self, in_flight: InFlight) -> None:
        """Remember one."""
        self._orphans[in_flight.identity] = in_flight

    def take(self, in_flight: InFlight) -> InFlight | None:
        """Return the one that was redelivered as this one, and forget it."""
        return self._orphans.pop(in_flight.identity, None)

    def forget(self, in_flight: InFlight) -> None:
        """Forget one that nothing will settle: redelivered, it is one like others."""
        if self._orphans.get(in_flight.identity) is in_flight:
            del self._orphans[in_flight.identity]

    def forget_old(self) -> None:
        """Forget the oldest of too many."""
        while len(self._orphans) > _MOST_ORPHANS:
            del self._orphans[next(iter(self._orphans))]

    def clear(self) -> None:
        """Forget all."""
        self._orphans.clear()
