"""The byte port: what a broker's client must be able to do, in four verbs.

A transport moves messages. It knows nothing of events, handlers or their exceptions: it hands each
delivery to the bus and carries out the settlement that comes back, so how failures are treated is
decided in one place for every broker. Its states are

    closed --connect--> connected --close--> closed

and between the two it reconnects by itself, for ever, with backoff; `connected` tells which side of
that it is on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from msgspec import Struct

from events.integration.health import Backlog
from events.integration.message import DeadLetter, Delivery, Message, Settlement

__all__ = [
    "BacklogSource",
    "DeadLetterStore",
    "Deliver",
    "Subscribed",
    "Subscription",
    "Transport",
    "TransportFeatures",
]

Deliver: TypeAlias = Callable[[Delivery], "asyncio.Future[Settlement]"]
"""Hand over a delivery. The future belongs to the bus: await it or add a callback, never cancel it.

It has no exception: whatever the handler did comes out as a settlement. Handlers run in tasks that
the bus owns, so a transport that loses its connection cancels none of them; the settlement of a
delivery that its broker has taken back is dropped.
"""


class TransportFeatures(Struct, frozen=True, kw_only=True):
    """What a transport promises; `register`, the contract suites and the docs read it.

    - `durability`: what an accepted message outlives: a restart of the `"broker"`, and so of all
      processes; of the `"process"` that sent it; or `"nothing"`, kept in that process alone.
    - `delivery`: `"group"`, each consumer name gets every message and its processes share the work,
      or `"broadcast"`, every registration gets everything while it is connected.
    - `before_first_start`: what happens to a message that was sent before a consumer name was ever
      seen: it `"waits"` or is `"gone"`.
    - `headers`: carries headers beside the body; without them a message travels in CloudEvents
      structured mode.
    - `delayed_retry`: `Retry` goes through the broker; without it every retry waits in place.
    - `dead_letters`: `Reject` keeps the message; without it the message is logged and dropped.
    - `ordered`: one consumer gets the messages of one sender as they were sent, failures aside.
    """

    durability: Literal["nothing", "process", "broker"]
    delivery: Literal["group", "broadcast"]
    before_first_start: Literal["waits", "gone"]
    headers: bool
    delayed_retry: bool
    dead_letters: bool
    ordered: bool


class Subscription(Struct, frozen=True, kw_only=True):
    """What the bus asks a transport for.

    `types` are the event types wanted: a transport may filter by them, the bus does so anyway. At
    most `concurrency` deliveries are handled at once; `ordered` says that some of them wait for
    others of their key, so a few more at hand keep the handlers busy.
    """

    topic: str
    consumer: str
    types: frozenset[str]
    concurrency: int
    ordered: bool


class Subscribed(Protocol):
    """A running subscription, owned by the bus that asked for it."""

    @property
    def last_poll(self) -> float | None:
        """Return when the broker was last heard of, by the event loop's clock."""
        ...

    async def pause(self) -> None:
        """Take no more deliveries. What was handed over can still be settled."""
        ...

    async def close(self) -> None:
        """Return when each settlement has reached the broker, or its message is back there."""
        ...

    async def wait_closed(self) -> None:
        """Return after `close`; raise what ended the subscription if it ended by itself."""
        ...


class DeadLetterStore(Protocol):
    """What a transport offers whose features include `dead_letters`. Oldest come first."""

    async def read(self, consumer: str, *, limit: int, after: str | None) -> Sequence[DeadLetter]:
        """Return up to `limit` dead letters that come after the one with the id `after`."""
        ...

    async def redrive(self, consumer: str, ids: Sequence[str]) -> Sequence[str]:
        """Send these back to that consumer alone, attempts anew; return the ids that were there."""
        ...

    async def discard(self, consumer: str, ids: Sequence[str]) -> Sequence[str]:
        """Remove these for good; return the ids that were there."""
        ...


@runtime_checkable
class BacklogSource(Protocol):
    """What a transport offers besides, whose broker tells what waits there."""

    async def backlog(self, consumer: str, topics: Sequence[str]) -> Backlog:
        """Return what this consumer has yet to handle of these topics, and its dead letters."""
        ...


class Transport(Protocol):
    """A broker, as a bus sees it. Used from one event loop, by one bus."""

    @property
    def features(self) -> TransportFeatures:
        """Return what this transport promises."""
        ...

    @property
    def connected(self) -> bool:
        """Tell whether the broker is within reach at this moment."""
        ...

    @property
    def dead_letters(self) -> DeadLetterStore | None:
        """Return the dead letters' store, or None if the features exclude it."""
        ...

    async def connect(self) -> None:
        """Connect within the transport's deadline, or raise `BusUnavailableError`."""
        ...

    def publish(self, message: Message) -> Awaitable[None]:
        """Hand over a message now; the awaitable ends when the broker has responsibility for it.

        Calls leave in the order they were made, many in flight. The awaitable raises
        `BusUnavailableError` if the broker has not taken the message within the transport's
        deadline, `SendOutcomeUnknownError` if it may have. Cancelling it gives up waiting, no more.
        """
        ...

    async def subscribe(self, subscription: Subscription, deliver: Deliver) -> Subscribed:
        """Declare what the consumer needs at the broker and start to deliver."""
        ...

    async def close(self) -> None:
        """Let what is being published end within the deadline, then disconnect."""
        ...
