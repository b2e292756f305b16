"""The errors of this package: one tree, each saying what happened, where, and the cure.

    EventsError
    ├── MissingExtraError (ImportError)     a third-party library is not installed
    ├── DomainEventError
    │   ├── EventTypeMissingError (TypeError)   an event without a `type` was instantiated
    │   ├── InvalidDomainEventError (TypeError) a `type` that is not a string, or not an event
    │   ├── HandlerDefinitionError (TypeError)  a handler for something that is not an event
    │   ├── HandlerNotRegisteredError (LookupError)
    │   ├── HandlerNotBuiltError                a factory or container cannot build a handler
    │   ├── DispatcherBusyError                 `process` while the dispatcher is processing
    │   └── EventChainTooLongError              handlers keep publishing events in a cycle
    └── IntegrationEventError
        ├── EventDefinitionError (TypeError)    no type, no version, or both in use elsewhere
        ├── EventEncodeError (ValueError)       an event that has no JSON form
        ├── EventDecodeError (ValueError)       a payload or a body that cannot be decoded
        │   ├── MalformedEventError             not JSON, no type, no version
        │   ├── UnknownEventError               no class for its type and version
        │   └── InvalidEventError               a field that does not fit its class
        ├── BusError
        │   ├── BusNotStartedError              used before `startup` or after `shutdown`
        │   │   └── WrongEventLoopError         used in another event loop than it was started in
        │   ├── InvalidTopologyError (ValueError)   a topic or registration that cannot work
        │   ├── UnsupportedByBusError           the bus does not have this feature
        │   ├── MessageTooLargeError (ValueError)   a body or headers over the limit
        │   ├── BusUnavailableError             the broker is out of reach; nothing was sent
        │   ├── SendRefusedError                the broker refuses the message for good
        │   ├── SendOutcomeUnknownError         the broker may or may not have taken the message
        │   ├── BatchSendError                  some events of a `send_many` were not taken
        │   ├── ConsumerStoppedError            a consumer ended unexpectedly
        │   ├── NoSuchDeadLetterError (LookupError)
        │   └── CanaryFailedError               the first dead letter of a redrive was not handled
        ├── OutboxError
        │   ├── OutboxTableError                a table is missing or has another layout
        │   ├── RelayNameTakenError             another relay has the lease of this name
        │   ├── ScheduleIdTakenError            another event is scheduled under this id
        │   └── NoSuchParkedRowError (LookupError)
        └── InboxError
            └── InboxTableError                 the table is missing or has another layout

Errors keep the objects that they are about as attributes, and render their text in `str()`.
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
    "ScheduleIdTakenError",
    "SendOutcomeUnknownError",
    "SendRefusedError",
    "UnknownEventError",
    "UnsupportedByBusError",
    "WrongEventLoopError",
]


class EventsError(Exception):
    """Base of all errors that this package defines."""

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
    """Raised when a module is imported whose third-party library is not installed."""

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
    """Raised when a domain event is instantiated whose class has no `type`."""

    event_class: type

    def __str__(self) -> str:
        name = self.event_class.__qualname__
        return (
            f"{name} has no type, so it is abstract and cannot be instantiated: "
            f'set a type in the class body, as in `type = "order.completed"`'
        )


@dataclass(eq=False)
class InvalidDomainEventError(DomainEventError, TypeError):
    """Raised when an event's `type` is not a string, or when a non-event is published."""

    event_class: type
    reason: str

    def __str__(self) -> str:
        return f"{self.event_class.__qualname__}: {self.reason}"


@dataclass(eq=False)
class HandlerDefinitionError(DomainEventError, TypeError):
    """Raised when a handler is defined or registered for something that is not an event."""

    handler: object
    reason: str

    def __str__(self) -> str:
        name = getattr(self.handler, "__qualname__", None) or repr(self.handler)
        return f"{name}: {self.reason}"


@dataclass(eq=False)
class HandlerNotRegisteredError(DomainEventError, LookupError):
    """Raised when a handler is removed that is not registered for that event."""

    handler: type
    event_class: type

    def __str__(self) -> str:
        return (
            f"{self.handler.__qualname__} is not registered for {self.event_class.__qualname__}: "
            f"remove it for the event class under which you added it"
        )


@dataclass(eq=False)
class HandlerNotBuiltError(DomainEventError):
    """Raised when a factory or a container cannot build a handler; chained to its error."""

    handler: type
    cure: str

    def __str__(self) -> str:
        return f"cannot build the handler {self.handler.__qualname__}: {self.cure}"


class DispatcherBusyError(DomainEventError):
    """Raised when `process` is called, or `async with` entered, during a running `process`."""

    def __str__(self) -> str:
        return (
            "this dispatcher is already processing events. In a handler, store the event: the "
            "running `process()` handles it. In another task or unit of work, use another "
            "dispatcher"
        )


@dataclass(eq=False)
class EventChainTooLongError(DomainEventError):
    """Raised when a chain of events that cause events exceeds the dispatcher's limit.

    `chain` holds the types from the first event to the one that was not handled. `caused` is set
    if not the length of the chain but the number of events in one `process()` is over the limit.
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
            else f"handlers caused {self.caused:,} domain events without an end"
        )
        return (
            f"{what}: {' -> '.join(shown)}; handlers probably publish events in a cycle. "
            f"Break the cycle, or raise the dispatcher's limit if the chain is intended"
        )


_CHAIN_SHOWN = 20


# --- integration ------------------------------------------------------------------------------


class IntegrationEventError(EventsError):
    """Base of the integration half's errors."""


@dataclass(eq=False)
class EventDefinitionError(IntegrationEventError, TypeError):
    """Raised when an integration event class cannot be registered, encoded or decoded."""

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
    """Base of the errors of a payload or a body that cannot be decoded. Retrying cannot help."""


@dataclass(eq=False)
class MalformedEventError(EventDecodeError):
    """Raised when a payload is not a JSON object with a `type` and a `version`."""

    reason: str

    def __str__(self) -> str:
        return f"not an integration event: {self.reason}"


@dataclass(eq=False)
class UnknownEventError(EventDecodeError):
    """Raised when a type and version have neither a class nor a chain of upcasters to one."""

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
    """Base of the errors of a bus and its broker."""


@dataclass(eq=False)
class BusNotStartedError(BusError):
    """Raised when a bus is used before `startup` or after `shutdown`."""

    bus: object
    doing: str

    def __str__(self) -> str:
        return (
            f"cannot {self.doing}: {self.bus!r} is not started; "
            f"use `async with bus:` or `await bus.startup()` first"
        )


@dataclass(eq=False)
class WrongEventLoopError(BusNotStartedError):
    """Raised when a bus is used in another event loop than the one that it was started in.

    Its connections and handlers belong to that loop; code in another loop would wait for ever.
    """

    def __str__(self) -> str:
        return (
            f"cannot {self.doing}: {self.bus!r} was started in another event loop; use it there "
            f"(`asyncio.run_coroutine_threadsafe` from another thread, the same `loop_scope` for "
            f"a fixture and its tests), or start another bus in this loop"
        )


@dataclass(eq=False)
class InvalidTopologyError(BusError, ValueError):
    """Raised when a topic or a registration cannot work."""

    subject: str
    reason: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason}"


@dataclass(eq=False)
class UnsupportedByBusError(BusError):
    """Raised when a bus lacks a feature: see `TransportFeatures`."""

    bus: object
    feature: str
    cure: str

    def __str__(self) -> str:
        return f"{self.bus!r} does not support {self.feature}: {self.cure}"


@dataclass(eq=False)
class MessageTooLargeError(BusError, ValueError):
    """Raised by `send` when the body or the headers exceed the limit; nothing was sent.

    `part` names which of the two. Sizes are in bytes.
    """

    topic: str
    type: str
    size: int
    limit: int
    part: Literal["body", "headers"] = "body"

    def __str__(self) -> str:
        has = f"a body of {self.size:,} bytes"
        cure = (
            "send a reference to the data, or raise the limit, which is `max_body_size` or "
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
    """Raised when the broker is out of reach, or does not do what it was asked for.

    On a send it has not taken the message: sending it again cannot duplicate it. `doing` is what
    was tried, as in `"read the dead letters of 'mails'"`, where that is known.
    """

    bus: str
    reason: str
    doing: str | None = None

    def __str__(self) -> str:
        cannot = "" if self.doing is None else f"cannot {self.doing}: "
        return f"{cannot}{self.bus} is not available: {self.reason}"


@dataclass(eq=False)
class SendRefusedError(BusError):
    """Raised when the broker refuses the message permanently, for example without permission.

    Nothing was sent. Sending it again has the same result until the broker's configuration
    changes. The outbox parks such a row instead of waiting. `reason` is the broker's own text.
    """

    bus: str
    topic: str
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.bus} refuses messages to topic {self.topic!r}: {self.reason}; "
            f"change this at the broker, then send again"
        )


@dataclass(eq=False)
class SendOutcomeUnknownError(BusError):
    """Raised when the broker may or may not have taken the message.

    The message was on its way when the deadline passed. Send it again with the same `id`: a
    consumer with an inbox then applies it once.
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

    `failures` maps their positions in the batch to their errors; the others were accepted.
    """

    bus: str
    size: int
    failures: Mapping[int, BusError]

    def __str__(self) -> str:
        position, error = next(iter(self.failures.items()))
        return (
            f"{self.bus} did not take {len(self.failures)} of {self.size} events; the first, "
            f"number {position}: {error}; send the events in `failures` again"
        )


@dataclass(eq=False)
class ConsumerStoppedError(BusError):
    """Raised by `run()` when a consumer ended that was not stopped; chained to the cause."""

    consumer: str
    topic: str

    def __str__(self) -> str:
        return f"consumer {self.consumer!r} on topic {self.topic!r} stopped by itself"


@dataclass(eq=False)
class NoSuchDeadLetterError(BusError, LookupError):
    """Raised when dead letters are redriven or discarded that the consumer does not have."""

    consumer: str
    ids: Sequence[str]

    def __str__(self) -> str:
        return (
            f"consumer {self.consumer!r} has no dead letter {', '.join(self.ids)}: "
            f"it was already redriven or discarded, or the id belongs to another consumer"
        )


@dataclass(eq=False)
class CanaryFailedError(BusError):
    """Raised when a redrive stops after the first dead letter, the canary.

    The canary failed again, and `error` is the error of its new dead letter; or its outcome is not
    known, and `error` is None. The others are still dead letters.
    """

    consumer: str
    id: str
    error: str | None

    def __str__(self) -> str:
        if self.error is not None:
            return (
                f"event {self.id} failed again at {self.consumer!r}, so the other dead letters "
                f"were not redriven: {self.error}"
            )
        return (
            f"the outcome of event {self.id} at {self.consumer!r} is not known, so the other dead "
            f"letters were not redriven: the handler is still running, or the broker does not "
            f"report outcomes. Wait longer (--canary-wait), or count the event as handled if it "
            f"does not fail again in that time (--trust-silence)"
        )


# --- outbox -----------------------------------------------------------------------------------


class OutboxError(IntegrationEventError):
    """Base of the outbox's errors."""


@dataclass(eq=False)
class OutboxTableError(OutboxError):
    """Raised when a table of the outbox or of the bus is missing, or has another layout."""

    table: str
    reason: str

    def __str__(self) -> str:
        return f"table {self.table!r}: {self.reason}"


@dataclass(eq=False)
class RelayNameTakenError(OutboxError):
    """Raised while another relay has the lease of this name.

    `alive` is true if that lease was renewed meanwhile, so the other relay is running.
    """

    relay: str
    token: str
    remaining: float
    alive: bool = False

    def __str__(self) -> str:
        if self.alive:
            return (
                f"two relays run under the name {self.relay!r}: give each its own name, or none: "
                f"a relay without a name gets a unique one"
            )
        return (
            f"another relay named {self.relay!r} has a lease for {self.remaining:.0f} s: this "
            f"relay takes over when that lease expires, if the other has died"
        )


@dataclass(eq=False)
class ScheduleIdTakenError(OutboxError):
    """Raised when an event is scheduled under the id of another scheduled event."""

    schedule_id: str

    def __str__(self) -> str:
        return (
            f"an event is already scheduled under the id {self.schedule_id!r}: replace it with "
            f"replace=True, or cancel it first"
        )


@dataclass(eq=False)
class NoSuchParkedRowError(OutboxError, LookupError):
    """Raised when parked rows are redriven or discarded that do not exist."""

    ids: Sequence[int]

    def __str__(self) -> str:
        return (
            f"no parked rows {', '.join(map(str, self.ids))}: they were already redriven or "
            f"discarded, or deleted after `keep_parked`"
        )


# --- inbox ------------------------------------------------------------------------------------


class InboxError(IntegrationEventError):
    """Base of the inbox's errors."""


@dataclass(eq=False)
class InboxTableError(InboxError):
    """Raised when the inbox table is missing, or has another layout than this version needs."""

    table: str
    reason: str

    def __str__(self) -> str:
        return f"inbox table {self.table!r}: {self.reason}"
