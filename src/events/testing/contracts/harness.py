"""`Harness`: how the suites make a bus, and their timeouts; the author of a bus writes it."""

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

    Names of topics and consumers are unique for each test, so a harness may use a shared broker.
    Each test makes a new harness, outside of the event loop.

    `timeout` is how many seconds a test waits for something that must happen; it does not slow
    down a faster bus. `pace` is the unit of intended delays: those of retries, and the time in
    which something must not happen. `deadline` ends a test that hangs.
    """

    timeout: float = 5.0
    pace: float = 0.02
    deadline: float = 60.0

    @abstractmethod
    def new_bus(self, **options: Unpack[BusOptions]) -> TransportIntegrationEventBus:
        """Return a new bus, as another process would make it. The suite starts and stops it."""

    async def publish_raw(self, bus: TransportIntegrationEventBus, message: Message) -> None:
        """Publish a message unchanged, as a program without this package would.

        Override it if the bus's transport cannot publish bytes that are not an event.
        """
        await bus.transport.publish(message)

    def break_dead_letters(self) -> AbstractAsyncContextManager[None]:
        """Let the broker store no dead letters until the exit. Optional: property 15 needs it."""
        raise NotImplementedError

    async def lose_connection(self, bus: TransportIntegrationEventBus) -> None:
        """Cut this bus off and return when it is, or has reconnected. Optional: 9 needs it.

        The bus must reconnect by itself.
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
