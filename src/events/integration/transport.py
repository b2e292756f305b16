"""`Transport`, the port of a broker: connect, publish, subscribe and close, on bytes.

A transport moves messages, without events, handlers or their exceptions. It passes each delivery to
the bus and carries out the settlement that the bus returns. So one place decides for all brokers
what happens after a failure. The states of a transport are

    closed --connect--> connected --close--> closed

Between `connect` and `close` it reconnects by itself, without limit, with backoff; `connected`
returns whether it has a connection now.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from msgspec import Struct

from events.integration.health import Backlog
from events.integration.message import DeadLetter, Delivery, Message, Settlement

__all__ = [
    "BacklogSource",
    "DeadLetterStore",
    "Deliver",
    "PauseStore",
    "Receipt",
    "ReceiptSource",
    "ScannedDeadLetters",
    "Subscribed",
    "Subscription",
    "TailSource",
    "TopologySource",
    "Transport",
    "TransportFeatures",
]

Deliver: TypeAlias = Callable[[Delivery], "asyncio.Future[Settlement]"]
"""Pass a delivery to the bus. The bus owns the future: await it or add a callback, never cancel it.

The future never has an exception: each outcome of a handler is a settlement. Handlers run in the
bus's tasks, so a transport that loses its connection does not cancel them. It drops the settlement
of a delivery that the broker has taken back.
"""


class TransportFeatures(Struct, frozen=True, kw_only=True):
    """The guarantees of a transport; `register`, the contract suites and the docs read them.

    - `durability`: what an accepted message survives: a restart of the `"broker"` and of all
      processes; a restart of the `"process"` that sent it; or `"nothing"`.
    - `delivery`: `"group"`: each consumer name gets every message, and its processes share the
      work; or `"broadcast"`: every registration gets every message while it is connected.
    - `before_first_start`: what happens to a message that was sent before the first start of a
      consumer: it `"waits"` or is `"gone"`.
    - `headers`: messages have headers; without them, they are in CloudEvents structured mode.
    - `delayed_retry`: `Retry` goes through the broker; without it, every retry waits in place.
    - `dead_letters`: `Reject` keeps the message; without it, the message is logged and dropped.
    - `ordered`: one consumer gets the messages of one sender in the order they were sent, unless
      one fails.
    """

    durability: Literal["nothing", "process", "broker"]
    delivery: Literal["group", "broadcast"]
    before_first_start: Literal["waits", "gone"]
    headers: bool
    delayed_retry: bool
    dead_letters: bool
    ordered: bool


class Subscription(Struct, frozen=True, kw_only=True):
    """A bus's request for the messages of a topic, for one consumer.

    `types` are the requested event types; a transport may filter by them, and the bus does so in
    any case. At most `concurrency` deliveries are handled at once. If `ordered`, deliveries wait
    for others of their key, so a few more in flight keep the handlers busy.
    """

    topic: str
    consumer: str
    types: frozenset[str]
    concurrency: int
    ordered: bool


class Subscribed(Protocol):
    """A running subscription; the bus that made it owns it."""

    @property
    def last_poll(self) -> float | None:
        """The time of the broker's last answer, by the event loop's clock, or None if unknown."""
        ...

    async def pause(self) -> None:
        """Take no more deliveries. Earlier ones can still be settled."""
        ...

    async def close(self) -> None:
        """Close; return when the broker has each settlement, or its message back."""
        ...

    async def wait_closed(self) -> None:
        """Return after `close`; raise the error if the subscription ended by itself."""
        ...


class DeadLetterStore(Protocol):
    """The dead letters of a transport whose features include `dead_letters`, oldest first."""

    async def read(self, consumer: str, *, limit: int, after: str | None) -> Sequence[DeadLetter]:
        """Return up to `limit` dead letters that come after the one with the id `after`."""
        ...

    async def redrive(self, consumer: str, ids: Sequence[str]) -> Sequence[str]:
        """Send these back to that consumer only, with 0 attempts; return the ids that existed."""
        ...

    async def discard(self, consumer: str, ids: Sequence[str]) -> Sequence[str]:
        """Delete these; return the ids that existed."""
        ...


class Receipt(Protocol):
    """Reports whether a consumer has handled an event that was redriven."""

    async def is_handled(self) -> bool:
        """Return whether the event is handled. False if it failed again, and while it waits."""
        ...


@runtime_checkable
class ReceiptSource(Protocol):
    """A store of dead letters that can report the outcome of a redriven event."""

    async def redrive_with_receipt(self, consumer: str, id: str) -> Receipt | None:
        """Send one back as `redrive` does; return None if it did not exist."""
        ...


@runtime_checkable
class ScannedDeadLetters(Protocol):
    """A store of dead letters for which one pass costs less than page after page."""

    def scan(self, consumer: str) -> AsyncGenerator[DeadLetter]:
        """Yield each dead letter once, in any order, in flat memory. Close it if you stop early.

        Sorted by id, they are in the order of `read`.
        """
        ...


@runtime_checkable
class BacklogSource(Protocol):
    """A transport whose broker reports how many messages wait."""

    async def backlog(self, consumer: str, topics: Sequence[str]) -> Backlog:
        """Return how many events of these topics wait for this consumer, and its dead letters."""
        ...


@runtime_checkable
class TailSource(Protocol):
    """A transport that can show the messages sent to a topic without consuming them.

    Consumers get the same messages as without it, and nothing remains at the broker, even if the
    process is killed.
    """

    async def tail(
        self,
        topic: str,
        types: Collection[str],
        show: Callable[[Message], object],
        begun: Callable[[], object],
    ) -> None:
        """Call `begun`, then `show` with each message that is sent to a topic, until cancelled.

        `types` is for brokers that subscribe by type; others show all messages. Raises
        `BusUnavailableError` if the connection is lost, `InvalidTopologyError` if the topic does
        not exist.
        """
        ...


@runtime_checkable
class TopologySource(Protocol):
    """A transport that can check the existing topology."""

    async def check(self, subscription: Subscription) -> None:
        """Raise `InvalidTopologyError` if the broker's objects do not fit; they may be missing.

        It changes nothing at the broker.
        """
        ...


@runtime_checkable
class PauseStore(Protocol):
    """A transport whose broker stores which consumers are paused."""

    async def paused(self, consumers: Collection[str]) -> frozenset[str]:
        """Return which of these are paused, or raise `BusUnavailableError`."""
        ...

    async def set_paused(self, consumer: str, *, paused: bool) -> bool:
        """Mark a consumer as paused or not; return whether that changed anything."""
        ...

    async def declare(self, subscription: Subscription) -> None:
        """Keep events for this consumer, as `subscribe` does, without delivering them."""
        ...


class Transport(Protocol):
    """The connection of one bus to its broker. Used from one event loop."""

    @property
    def features(self) -> TransportFeatures:
        """Return the guarantees of this transport."""
        ...

    @property
    def connected(self) -> bool:
        """Return whether the transport is connected to its broker at this moment."""
        ...

    @property
    def dead_letters(self) -> DeadLetterStore | None:
        """Return the store of dead letters, or None without that feature."""
        ...

    async def connect(self) -> None:
        """Connect within the transport's deadline, or raise `BusUnavailableError`."""
        ...

    def publish(self, message: Message) -> Awaitable[None]:
        """Send a message now; the awaitable returns when the broker is responsible for it.

        Messages are sent in the order of the calls, many in flight. The awaitable raises
        `BusUnavailableError` if the broker has not taken the message within the transport's
        deadline, `SendOutcomeUnknownError` if it may have. Cancelling it only ends the waiting.
        """
        ...

    async def subscribe(self, subscription: Subscription, deliver: Deliver) -> Subscribed:
        """Declare the consumer's objects at the broker, and start to deliver."""
        ...

    async def close(self) -> None:
        """Wait for sends in flight, up to the deadline, then disconnect."""
        ...
