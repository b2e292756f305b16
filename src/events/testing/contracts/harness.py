"""What the author of a bus gives the suites: how to make one, and how patient to be with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Unpack

from events.integration.implementation.base import BusOptions, TransportIntegrationEventBus
from events.integration.message import Message
from events.integration.transport import BacklogSource, TransportFeatures

__all__ = [
    "BACKLOG",
    "BREAKABLE_DEAD_LETTERS",
    "BROADCAST",
    "DEAD_LETTERS",
    "DELAYED_RETRY",
    "GONE_BEFORE_START",
    "GROUPS",
    "LOSABLE_CONNECTION",
    "ORDERED",
    "WAITS_BEFORE_START",
    "Harness",
    "Need",
]


class Harness(ABC):
    """Make the buses of one test. All of them must reach the same broker.

    Names of topics and consumers are unique for each test, so a harness may use a broker that is
    shared with others. A new harness is made for each test, outside of the event loop.

    `patience` is for how many seconds a test waits for what should happen; a bus that does it
    sooner loses no time by it. `pace` is the unit of what a test does slowly on purpose: delays of
    retries, and the time in which something must not happen. `deadline` ends a test that hangs.
    """

    patience: float = 5.0
    pace: float = 0.02
    deadline: float = 60.0

    @abstractmethod
    def new_bus(self, **options: Unpack[BusOptions]) -> TransportIntegrationEventBus:
        """Return a new bus, as another process would make it. The suite starts and stops it."""

    async def publish_raw(self, bus: TransportIntegrationEventBus, message: Message) -> None:
        """Publish a message as it is, as a program without this package would.

        Override it if the bus's own transport cannot publish bytes that are no event.
        """
        await bus.transport.publish(message)

    def break_dead_letters(self) -> AbstractAsyncContextManager[None]:
        """Have the broker keep no dead letter until the exit. Optional: property 15 needs it."""
        raise NotImplementedError

    async def lose_connection(self, bus: TransportIntegrationEventBus) -> None:
        """Cut this bus off and return when it is, or has reconnected. Optional: 9 needs it.

        It must find its way back by itself.
        """
        raise NotImplementedError

    async def open_resources(self) -> Mapping[str, int]:
        """Count, by kind, what the buses of this harness hold open at the broker. Optional.

        Connections, channels, running consumers, temporary queues. It must not grow over rounds of
        register and unregister, and be 0 when all buses are shut down.
        """
        return {}

    async def aclose(self) -> None:  # noqa: B027 - most have nothing to undo
        """Undo what the harness itself made, after its buses are shut down."""


class Need(NamedTuple):
    """What a property needs of a bus to be tested on it."""

    what: str
    is_met: Callable[[Harness, TransportFeatures], bool]


def _offers(hook: str) -> Need:
    def is_met(harness: Harness, _: TransportFeatures) -> bool:
        return getattr(type(harness), hook) is not getattr(Harness, hook)

    return Need(f"a harness that implements `{hook}`", is_met)


def _declares(feature: str, value: object) -> Need:
    def is_met(_: Harness, features: TransportFeatures) -> bool:
        return bool(getattr(features, feature) == value)

    return Need(f"{feature}={value!r}, which this transport does not declare", is_met)


def _tells_backlog(harness: Harness, _: TransportFeatures) -> bool:
    return isinstance(harness.new_bus().transport, BacklogSource)


GROUPS = _declares("delivery", "group")
BROADCAST = _declares("delivery", "broadcast")
WAITS_BEFORE_START = _declares("before_first_start", "waits")
GONE_BEFORE_START = _declares("before_first_start", "gone")
DELAYED_RETRY = _declares("delayed_retry", value=True)
DEAD_LETTERS = _declares("dead_letters", value=True)
ORDERED = _declares("ordered", value=True)
BACKLOG = Need("a transport that is a `BacklogSource`", _tells_backlog)
BREAKABLE_DEAD_LETTERS = _offers("break_dead_letters")
LOSABLE_CONNECTION = _offers("lose_connection")
