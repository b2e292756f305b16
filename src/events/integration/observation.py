"""The observer of integration events, and when each of its methods is called.

    put ------> created --> (the outbox) --> sending_batch --.
    send_many > created ---------------------> sending_batch -|--> the broker
    send -------------------------------> sending -----------'
                                                                  |
    settled (Ack, Retry, Reject, Release) <-- processing <-- received
       |                                        |   ^
    settling --> the broker                     retrying

A process has one observer, or none, which is the default and costs nothing. An observer is called
within the code that it observes. What it raises in `created`, `sending`, `sending_batch` and
`processing`, it raises in that code: the call or the attempt fails. What it raises elsewhere is
logged, because no caller could handle it there, and the delivery would be lost from sight.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial, wraps
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from events.errors import BusError
from events.integration.message import Delivery, Message, Settlement

__all__ = [
    "Observer",
    "ObserverBeside",
    "TraceMode",
    "current_observer",
    "observe",
    "observing",
    "system_of",
    "together",
]

logger = logging.getLogger("events.integration")

TraceMode: TypeAlias = Literal["link", "parent"]
"""How the span of a handler relates to the span in which its event was created."""


class Observer:
    """Base of observers of integration events. The methods do nothing: override some.

    `system` is OpenTelemetry's name of the broker, for example `rabbitmq`.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, method in tuple(vars(cls).items()):
            if name in _NOTES:
                setattr(cls, name, _noting(method))
            elif name == "settling":
                setattr(cls, name, _around(method))

    # --- sending ------------------------------------------------------------------------------

    def created(self, message: Message) -> Message:
        """Called for a message that is put into an outbox, or is part of a `send_many`.

        Returns the message to continue with: `with_trace` adds the context of its creation.
        """
        return message

    def sending(self, message: Message, system: str) -> AbstractContextManager[Message]:
        """Called around one `send`; the block gets the message to send."""
        del system
        return nullcontext(message)

    def sending_batch(
        self, messages: Sequence[Message], system: str
    ) -> AbstractContextManager[list[BusError | Exception | None]]:
        """Called around a batch: a `send_many`, or rows of an outbox that a relay forwards.

        The block appends the outcome of each message, in order: None, or an error.
        """
        del messages, system
        return nullcontext([])

    def postponed(self, message: Message, error: str, seconds: float) -> None:
        """Called for a row of an outbox that was refused and is retried in some seconds."""

    def parked(self, message: Message, reason: str) -> None:
        """Called for a row of an outbox that is parked."""

    # --- consuming ----------------------------------------------------------------------------

    def received(self, delivery: Delivery, system: str) -> None:
        """Called for a delivery from the broker, unchanged."""

    def processing(
        self, delivery: Delivery, system: str, trace: TraceMode, mask: Callable[[str], str]
    ) -> AbstractContextManager[None]:
        """Called around each attempt to handle a delivery, in the handler's task.

        `mask` removes the event's personal data from a text, such as that of the handler's error.
        """
        del delivery, system, trace, mask
        return nullcontext()

    def retrying(self, delivery: Delivery, system: str, seconds: float) -> None:
        """Called for an attempt that failed; the next one waits in this process."""

    def settled(self, delivery: Delivery, system: str, settlement: Settlement) -> None:
        """Called at the end of a delivery, with its settlement.

        A `Retry` is delivered again. A `Reject` becomes a dead letter if the bus keeps those.
        """

    def settling(self, deliveries: Sequence[Delivery], system: str) -> AbstractContextManager[None]:
        """Called around a round trip to the broker that settles deliveries, until it answers.

        It is not called where a settlement has no answer: in memory, on RabbitMQ and NATS, and if
        the handler's own transaction settles. A failed settlement is retried in another block. The
        block may end in another turn of the event loop, so it must not change the context.
        """
        del deliveries, system
        return nullcontext()

    def duplicate(self, delivery: Delivery) -> None:
        """Called for a duplicate that an inbox has recognised, and that no handler gets."""

    def paused(self, consumer: str, system: str) -> None:
        """Called for a consumer that is paused: it starts no handler in this process."""

    def resumed(self, consumer: str, system: str) -> None:
        """Called for a consumer that is resumed."""

    # --- dead letters -------------------------------------------------------------------------

    def redriven(self, consumer: str, count: int, system: str) -> None:
        """Called for dead letters that were sent back to their consumer."""

    def discarded(self, consumer: str, count: int, system: str) -> None:
        """Called for dead letters that were removed."""


_NOTES = frozenset(name for name in vars(Observer) if not name.startswith("_")) - {
    "created",
    "sending",
    "sending_batch",
    "processing",
    "settling",
}
_logged: set[str] = set()


def _log(method: Callable[..., object], error: Exception) -> None:
    name = f"{method.__module__}.{method.__qualname__}"
    if name not in _logged:
        _logged.add(name)
        logger.error(
            "%s failed; what it observes goes on. This is logged once", name, exc_info=error
        )


def _noting(method: Callable[..., None]) -> Callable[..., None]:
    """Return the method of an observer, with what it raises logged."""

    @wraps(method)
    def note(*about: object, **named: object) -> None:
        try:
            method(*about, **named)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the observer's
            _log(method, error)

    return note


def _around(
    method: Callable[..., AbstractContextManager[None]],
) -> Callable[..., AbstractContextManager[None]]:
    """Return the same for a method that returns a block."""

    @wraps(method)
    def around(*about: object, **named: object) -> AbstractContextManager[None]:
        try:
            return _Careful(method, method(*about, **named))
        except Exception as error:  # noqa: BLE001 - as above
            _log(method, error)
            return nullcontext()

    return around


class _Careful(AbstractContextManager[None]):
    """A block of an observer, with what it raises logged."""

    __slots__ = ("_block", "_entered", "_method")

    def __init__(self, method: Callable[..., object], block: AbstractContextManager[None]) -> None:
        self._method = method
        self._block = block
        self._entered = False

    def __enter__(self) -> None:
        try:
            self._block.__enter__()
            self._entered = True
        except Exception as error:  # noqa: BLE001 - as above
            _log(self._method, error)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._entered:
                self._block.__exit__(exc_type, exc, traceback)
        except Exception as raised:  # noqa: BLE001 - as above
            if raised is not exc:
                _log(self._method, raised)


class _Together(Observer):
    """Several observers as one: they are called in order, and blocks are nested in that order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers
        for name in vars(Observer).keys() - vars(_Together).keys():  # those that take note
            if not name.startswith("_"):
                setattr(self, name, partial(_each, [getattr(each, name) for each in observers]))

    def without(self, gone: Observer) -> Observer | None:
        """Return these without that one, the last time that it occurs."""
        for index, each in reversed(tuple(enumerate(self._observers))):
            left = _without(each, gone)
            if left is not each:
                return together(*self._observers[:index], left, *self._observers[index + 1 :])
        return self

    def created(self, message: Message) -> Message:
        for each in self._observers:
            message = each.created(message)
        return message

    @contextmanager
    def sending(self, message: Message, system: str) -> Generator[Message]:
        with ExitStack() as stack:
            for each in self._observers:
                message = stack.enter_context(each.sending(message, system))
            yield message

    @contextmanager
    def sending_batch(
        self, messages: Sequence[Message], system: str
    ) -> Generator[list[BusError | Exception | None]]:
        outcomes: list[BusError | Exception | None] = []
        with ExitStack() as stack:
            theirs = [
                stack.enter_context(each.sending_batch(messages, system))
                for each in self._observers
            ]
            try:
                yield outcomes
            finally:
                for some in theirs:
                    some.extend(outcomes)

    @contextmanager
    def processing(
        self, delivery: Delivery, system: str, trace: TraceMode, mask: Callable[[str], str]
    ) -> Generator[None]:
        with ExitStack() as stack:
            for each in self._observers:
                stack.enter_context(each.processing(delivery, system, trace, mask))
            yield

    @contextmanager
    def settling(self, deliveries: Sequence[Delivery], system: str) -> Generator[None]:
        with ExitStack() as stack:
            for each in self._observers:
                stack.enter_context(each.settling(deliveries, system))
            yield


def _each(methods: Sequence[Callable[..., None]], *given: object) -> None:
    for method in methods:
        method(*given)


def together(*observers: Observer | None) -> Observer | None:
    """Return one observer that calls each of these, the first one outermost, for `observe`.

    Arguments that are None are ignored. A single observer is returned itself, and None if there is
    no observer.
    """
    given = [each for each in observers if each is not None]
    if len(given) < 2:  # noqa: PLR2004
        return given[0] if given else None
    return _Together(given)


def _without(observer: Observer | None, gone: Observer) -> Observer | None:
    if observer is gone:
        return None
    return observer.without(gone) if isinstance(observer, _Together) else observer


in_place: Observer | None = None
"""The one that observes the process, as `current_observer`; read here once or twice an event, where
a call would cost more than what is asked for."""


def observe(observer: Observer | None) -> Observer | None:
    """Set the observer of the process, or remove it with None; return the previous one.

    A second observer replaces the first. Operations that are running keep their observer.
    """
    global in_place
    before, in_place = in_place, observer
    return before


def current_observer() -> Observer | None:
    """Return the observer of the process, or None."""
    return in_place


@contextmanager
def observing(observer: Observer) -> Generator[None]:
    """Set the observer of the process within the block."""
    before = observe(observer)
    try:
        yield
    finally:
        observe(before)


def system_of(transport: object) -> str:
    """Return OpenTelemetry's name of the transport's broker, its `system`, or "other"."""
    system: object = getattr(transport, "system", None)
    return system if isinstance(system, str) else "other"


class ObserverBeside(Observer):
    """An observer within `async with`, in addition to the one that was set before."""

    async def __aenter__(self) -> Self:
        observe(together(current_observer(), self))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        observe(_without(current_observer(), self))  # others may have come since, or replaced it
