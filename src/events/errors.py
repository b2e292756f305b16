"""The errors of this package: one tree, each saying what happened, where, and the cure.

    EventsError
    ├── MissingExtraError (ImportError)     a third-party library is not installed
    ├── DomainEventError
    │   ├── EventTypeMissingError (TypeError)   an event without a `type` was instantiated
    │   ├── InvalidDomainEventError (TypeError) a `type` that is no string, or no event at all
    │   ├── HandlerDefinitionError (TypeError)  a handler for something that is not an event
    │   ├── HandlerNotRegisteredError (LookupError)
    │   ├── HandlerNotBuiltError                a factory or container cannot build a handler
    │   ├── DispatcherBusyError                 `process` while the dispatcher is processing
    │   └── EventChainTooLongError              handlers keep publishing events in a circle
    └── IntegrationEventError
        ├── EventDefinitionError (TypeError)    no type, no version, or a key that is taken
        ├── EventEncodeError (ValueError)       an event that has no JSON form
        ├── EventDecodeError (ValueError)       a payload or a body that is not what it says
        │   ├── MalformedEventError             not JSON, no type, no version
        │   ├── UnknownEventError               no class for its type and version
        │   └── InvalidEventError               a field that does not fit its class
        ├── BusError
        │   ├── BusNotStartedError              used before `startup` or after `shutdown`
        │   │   └── WrongEventLoopError         used in another event loop than it was started in
        │   ├── InvalidTopologyError (ValueError)   a topic or registration that cannot work
        │   ├── UnsupportedByBusError           the bus declares that it cannot do this
        │   ├── MessageTooLargeError (ValueError)   a body or headers over the limit
        │   ├── BusUnavailableError             the broker has not taken the message
        │   ├── SendRefusedError                the broker refuses the message for good
        │   ├── SendOutcomeUnknownError         the broker may or may not have taken it
        │   ├── BatchSendError                  some events of a `send_many` were not taken
        │   ├── ConsumerStoppedError            a consumer ended that should have run on
        │   ├── NoSuchDeadLetterError (LookupError)
        │   └── CanaryFailedError               the first dead letter of a redrive was not handled
        ├── OutboxError
        │   ├── OutboxTableError                a table is missing or of another layout
        │   ├── RelayNameTakenError             another relay runs, or ran, under this name
        │   └── NoSuchParkedRowError (LookupError)
        └── InboxError
            └── InboxTableError                 the table is missing or of another layout

Errors hold the objects they speak of as attributes and render their text when asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "BatchSendError",
    "BusError",
    "BusNotStartedError",
    "BusUnavailableError",
    "CanaryFailedError",
    "ConsumerStoppedError",
    "DispatcherBusyError",
    "DomainEventError",
    "EventChainTooLongError",
    "EventDecodeError",
    "EventDefinitionError",
    "EventEncodeError",
    "EventTypeMissingError",
    "EventsError",
    "HandlerDefinitionError",
    "HandlerNotBuiltError",
    "HandlerNotRegisteredError",
    "InboxError",
    "InboxTableError",
    "IntegrationEventError",
    "InvalidDomainEventError",
    "InvalidEventError",
    "InvalidTopologyError",
    "MalformedEventError",
    "MessageTooLargeError",
    "MissingExtraError",
    "NoSuchDeadLetterError",
    "NoSuchParkedRowError",
    "OutboxError",
    "OutboxTableError",
    "RelayNameTakenError",
    "SendOutcomeUnknownError",
    "SendRefusedError",
    "UnknownEventError",
    "UnsupportedByBusError",
    "WrongEventLoopError",
]


class EventsError(Exception):
    """Base of every error that this package raises on purpose."""

    def __reduce__(self) -> tuple[Callable[..., EventsError], tuple[Any, ...]]:
        # Exception pickles its positional args alone; ours hold named attributes.
        return _rebuild, (type(self), self.args, dict(self.__dict__))


def _rebuild(
    cls: type[EventsError], args: tuple[Any, ...], attributes: dict[str, Any]
) -> EventsError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(attributes)
    return error


@dataclass(eq=False)
class MissingExtraError(EventsError, ImportError):
    """Raised on importing an implementation whose third-party library is not installed."""

    module: str
    extra: str

    def __str__(self) -> str:
        return (
            f"{self.module} needs the extra {self.extra!r}: "
            f'pip install "integration-events[{self.extra}]"'
        )


# --- domain -----------------------------------------------------------------------------------


class DomainEventError(EventsError):
    """Base of the domain half's errors."""


@dataclass(eq=False)
class EventTypeMissingError(DomainEventError, TypeError):
    """Raised on instantiating a domain event whose class gives no `type`."""

    event_class: type

    def __str__(self) -> str:
        name = self.event_class.__qualname__
        return (
            f"{name} has no type, so it is abstract and cannot be instantiated: "
            f'give it one in its class body, as in `type = "order.completed"`'
        )


@dataclass(eq=False)
class InvalidDomainEventError(DomainEventError, TypeError):
    """Raised on defining an event whose `type` is no string, and on publishing a non-event."""

    event_class: type
    reason: str

    def __str__(self) -> str:
        return f"{self.event_class.__qualname__}: {self.reason}"


@dataclass(eq=False)
class HandlerDefinitionError(DomainEventError, TypeError):
    """Raised on defining or registering a handler for something that is not an event."""

    handler: object
    reason: str

    def __str__(self) -> str:
        name = getattr(self.handler, "__qualname__", None) or repr(self.handler)
        return f"{name}: {self.reason}"


@dataclass(eq=False)
class HandlerNotRegisteredError(DomainEventError, LookupError):
    """Raised on removing a handler from a registry that does not have it for that event."""

    handler: type
    event_class: type

    def __str__(self) -> str:
        return (
            f"{self.handler.__qualname__} is not registered for {self.event_class.__qualname__}: "
            f"remove it for the event class that it was added for"
        )


@dataclass(eq=False)
class HandlerNotBuiltError(DomainEventError):
    """Raised when a factory or a container cannot build a handler; chained to what it said."""

    handler: type
    cure: str

    def __str__(self) -> str:
        return f"cannot build the handler {self.handler.__qualname__}: {self.cure}"


class DispatcherBusyError(DomainEventError):
    """Raised on calling `process`, or entering `async with`, while the dispatcher processes."""

    def __str__(self) -> str:
        return (
            "this dispatcher is processing events already. In a handler, store the event and "
            "leave the rest to the running `process()`; in another task or unit of work, use "
            "another dispatcher"
        )


@dataclass(eq=False)
class EventChainTooLongError(DomainEventError):
    """Raised when events cause events for longer than the dispatcher's limit.

    `chain` holds the types from the event that began it to the one that was not handled. `caused`
    is set when the chain is short, but so many events were caused side by side in one `process()`.
    """

    chain: Sequence[str]
    limit: int
    caused: int | None = None

    def __str__(self) -> str:
        shown = list(self.chain)
        if len(shown) > _CHAIN_SHOWN:
            half = _CHAIN_SHOWN // 2
            shown = [*shown[:half], f"... {len(shown) - 2 * half} more ...", *shown[-half:]]
        what = (
            f"a chain of domain events is longer than {self.limit:,}"
            if self.caused is None
            else f"handlers caused {self.caused:,} domain events and did not come to an end"
        )
        return (
            f"{what}: {' -> '.join(shown)}; a handler publishes what it handles itself. "
            f"Break the circle, or raise the dispatcher's limit if the chain is meant"
        )


_CHAIN_SHOWN = 20


# --- integration ------------------------------------------------------------------------------


class IntegrationEventError(EventsError):
    """Base of the integration half's errors."""


@dataclass(eq=False)
class EventDefinitionError(IntegrationEventError, TypeError):
    """Raised on defining an integration event class that cannot be registered or decoded."""

    event_class: type
    reason: str

    def __str__(self) -> str:
        return f"{self.event_class.__module__}.{self.event_class.__qualname__}: {self.reason}"


@dataclass(eq=False)
class EventEncodeError(IntegrationEventError, ValueError):
    """Raised when an event holds a value that has no JSON form."""

    event_class: type
    reason: str

    def __str__(self) -> str:
        return f"cannot encode {self.event_class.__qualname__}: {self.reason}"


class EventDecodeError(IntegrationEventError, ValueError):
    """Base of what a payload or a body can have wrong with it. Retrying cannot help."""


@dataclass(eq=False)
class MalformedEventError(EventDecodeError):
    """Raised when a payload is not a JSON object with a `type` and a `version`."""

    reason: str

    def __str__(self) -> str:
        return f"not an integration event: {self.reason}"


@dataclass(eq=False)
class UnknownEventError(EventDecodeError):
    """Raised when no class, and no chain of upcasters, leads from a type and version to here."""

    type: str
    version: int
    reason: str

    def __str__(self) -> str:
        return f"unknown event {self.type!r} version {self.version}: {self.reason}"


@dataclass(eq=False)
class InvalidEventError(EventDecodeError):
    """Raised when a field does not fit its class. `path` is a JSONPath, as in `$.user.email`."""

    event_class: type
    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.event_class.__qualname__} at {self.path}: {self.reason}"


# --- bus --------------------------------------------------------------------------------------


class BusError(IntegrationEventError):
    """Base of what can go wrong between a program and its broker."""


@dataclass(eq=False)
class BusNotStartedError(BusError):
    """Raised on using a bus before `startup` or after `shutdown`."""

    bus: object
    doing: str

    def __str__(self) -> str:
        return (
            f"cannot {self.doing}: {self.bus!r} is not started; "
            f"use `async with bus:` or `await bus.startup()` first"
        )


@dataclass(eq=False)
class WrongEventLoopError(BusNotStartedError):
    """Raised on using a bus in another event loop than the one that it was started in.

    Its connections and handlers live there: what waits for them elsewhere would wait for ever.
    """

    def __str__(self) -> str:
        return (
            f"cannot {self.doing}: {self.bus!r} was started in another event loop; use it there "
            f"(`asyncio.run_coroutine_threadsafe` from another thread, `loop_scope` of a fixture "
            f"and its tests), or start a bus of its own in this one"
        )


@dataclass(eq=False)
class InvalidTopologyError(BusError, ValueError):
    """Raised on making or registering a topic or registration that cannot work."""

    subject: str
    reason: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason}"


@dataclass(eq=False)
class UnsupportedByBusError(BusError):
    """Raised on asking a bus for what its transport's declared features exclude."""

    bus: object
    feature: str
    cure: str

    def __str__(self) -> str:
        return f"{self.bus!r} does not support {self.feature}: {self.cure}"


@dataclass(eq=False)
class MessageTooLargeError(BusError, ValueError):
    """Raised by `send` for a body or headers over the limit; nothing was sent. Sizes are in bytes.

    `part` tells which of the two it is.
    """

    topic: str
    type: str
    size: int
    limit: int
    part: Literal["body", "headers"] = "body"

    def __str__(self) -> str:
        has = f"a body of {self.size:,} bytes"
        cure = (
            "send a reference to the data, or raise that limit, which is `max_body_size` or "
            "the broker's own"
        )
        if self.part == "headers":
            has = f"headers of {self.size:,} bytes"
            cure = "put the data into the event, or send a reference to it"
        return (
            f"{self.type!r} for topic {self.topic!r} has {has}, over the limit of "
            f"{self.limit:,}: {cure}"
        )


@dataclass(eq=False)
class BusUnavailableError(BusError):
    """Raised when the broker has not taken the message: sending it again cannot duplicate it."""

    bus: str
    reason: str

    def __str__(self) -> str:
        return f"{self.bus} is not available, nothing was sent: {self.reason}"


@dataclass(eq=False)
class SendRefusedError(BusError):
    """Raised when the broker refuses the message for good, such as for want of a permission.

    Nothing was sent, and sending it again has the same result until somebody changes the broker.
    The outbox parks such a row instead of waiting. `reason` holds the broker's own words.
    """

    bus: str
    topic: str
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.bus} refuses what is sent to topic {self.topic!r}: {self.reason}; "
            f"change this at the broker, then send again"
        )


@dataclass(eq=False)
class SendOutcomeUnknownError(BusError):
    """Raised when the deadline passed while the broker held the message.

    It may or may not have been taken: send again with the same `id`, and an inbox at the other
    end keeps the effect single.
    """

    bus: str
    id: str
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.bus} may or may not have taken message {self.id}: {self.reason}; "
            f"send it again with id={self.id!r}"
        )


@dataclass(eq=False)
class BatchSendError(BusError):
    """Raised by `send_many` when some of its events were not taken, or may not have been.

    `failures` maps their positions in the batch to what became of them; the others were taken.
    """

    bus: str
    size: int
    failures: Mapping[int, BusError]

    def __str__(self) -> str:
        position, error = next(iter(self.failures.items()))
        return (
            f"{self.bus} did not take {len(self.failures)} of {self.size} events; the first of "
            f"them, number {position}: {error}; send those in `failures` again"
        )


@dataclass(eq=False)
class ConsumerStoppedError(BusError):
    """Raised by `run()` when a consumer ended that nobody stopped; chained to what ended it."""

    consumer: str
    topic: str

    def __str__(self) -> str:
        return f"consumer {self.consumer!r} on topic {self.topic!r} stopped by itself"


@dataclass(eq=False)
class NoSuchDeadLetterError(BusError, LookupError):
    """Raised on redriving or discarding dead letters that the consumer does not have."""

    consumer: str
    ids: Sequence[str]

    def __str__(self) -> str:
        return (
            f"consumer {self.consumer!r} has no dead letter {', '.join(self.ids)}: "
            f"it was redriven or discarded before, or the id is of another consumer"
        )


@dataclass(eq=False)
class CanaryFailedError(BusError):
    """Raised when the first of the dead letters to redrive was not seen to be handled.

    The others are still dead letters. `error` is that of its new dead letter, or None if nothing is
    known of it yet.
    """

    consumer: str
    id: str
    error: str | None

    def __str__(self) -> str:
        if self.error is not None:
            return (
                f"event {self.id} died again at {self.consumer!r}, so no more were sent back: "
                f"{self.error}"
            )
        return (
            f"it is not known yet whether {self.consumer!r} has handled event {self.id}, so no "
            f"more were sent back: it is at work, or its broker does not tell. Wait longer "
            f"(--canary-wait), or take it for handled if it does not die again meanwhile "
            f"(--trust-silence)"
        )


# --- outbox -----------------------------------------------------------------------------------


class OutboxError(IntegrationEventError):
    """Base of the outbox's errors."""


@dataclass(eq=False)
class OutboxTableError(OutboxError):
    """Raised when the outbox table is missing, or is of another layout than this version's."""

    table: str
    reason: str

    def __str__(self) -> str:
        return f"outbox table {self.table!r}: {self.reason}"


@dataclass(eq=False)
class RelayNameTakenError(OutboxError):
    """Raised while the lease of another relay of this name has not run out.

    `alive` says that it was renewed meanwhile, so that other relay is no dead predecessor.
    """

    relay: str
    token: str
    remaining: float
    alive: bool = False

    def __str__(self) -> str:
        if self.alive:
            return (
                f"two relays run under the name {self.relay!r}: give each its own, or none, then "
                f"each gets one"
            )
        return (
            f"the lease of a relay named {self.relay!r} runs for {self.remaining:.0f} s yet: this "
            f"one takes over then, if the other has died"
        )


@dataclass(eq=False)
class NoSuchParkedRowError(OutboxError, LookupError):
    """Raised when parked rows are to be redriven or discarded that are not there."""

    ids: Sequence[int]

    def __str__(self) -> str:
        return (
            f"no parked rows {', '.join(map(str, self.ids))}: they were redriven or discarded "
            f"already, or deleted as keep_parked says"
        )


# --- inbox ------------------------------------------------------------------------------------


class InboxError(IntegrationEventError):
    """Base of the inbox's errors."""


@dataclass(eq=False)
class InboxTableError(InboxError):
    """Raised when the inbox table is missing, or is of another layout than this version's."""

    table: str
    reason: str

    def __str__(self) -> str:
        return f"inbox table {self.table!r}: {self.reason}"
