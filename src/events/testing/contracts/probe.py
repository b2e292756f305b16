"""The events that the suites send, and the consumer that records their outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from msgspec.structs import replace

from events.integration.event import EventRegistry, IntegrationEvent
from events.integration.message import Delivery, current_delivery
from events.integration.topology import Consumer

__all__ = ["Arrival", "ContractEvent", "Numbered", "Other", "Probe", "React"]


class ContractEvent(IntegrationEvent, abstract=True):
    """Base of the suites' events, kept apart from those of the program under test."""

    registry = EventRegistry()


@dataclass(frozen=True)
class Numbered(ContractEvent):
    """What most tests send."""

    type = "events.contracts.numbered"
    version = 1
    number: int
    key: str = ""
    text: str = ""


@dataclass(frozen=True)
class Other(ContractEvent):
    """Another type on the same topic."""

    type = "events.contracts.other"
    version = 1
    number: int


React: TypeAlias = Callable[[Any], Awaitable[object]]


class Arrival(NamedTuple):
    """One call of the consumer: the event, its delivery as it was then, the loop's time."""

    event: Any
    delivery: Delivery
    at: float


class Probe(Consumer):
    """Keep what arrives, then do what `react` does."""

    def __init__(self, name: str, react: React | None = None) -> None:
        super().__init__(name)
        self.react = react
        self.arrivals: list[Arrival] = []
        self.handled: list[Any] = []
        self.running: list[Any] = []
        self.most_running = 0

    async def on_event(self, event: IntegrationEvent) -> None:
        """Handle as `Consumer` says."""
        delivery = current_delivery()
        assert delivery is not None, "a handler runs without a current delivery"
        # A copy: the test compares what came with what comes after a handler has meddled with it.
        delivery = replace(delivery, headers=dict(delivery.headers))
        self.arrivals.append(Arrival(event, delivery, asyncio.get_running_loop().time()))
        self.running.append(event)
        self.most_running = max(self.most_running, len(self.running))
        try:
            if self.react is not None:
                await self.react(event)
        finally:
            self.running.remove(event)
        self.handled.append(event)

    @property
    def numbers(self) -> list[int]:
        """Return the numbers of what was handled, in order."""
        return [event.number for event in self.handled]

    @property
    def attempts(self) -> list[int]:
        """Return the attempt of each call, in order."""
        return [arrival.delivery.attempt for arrival in self.arrivals]
