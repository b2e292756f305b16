"""What can be observed of integration events, listed once.

    put ------> created --> (the outbox) --> sending_batch --.
    send_many > created ---------------------> sending_batch -|--> the broker
    send -------------------------------> sending -----------'
                                                                  |
    settled (Ack, Retry, Reject, Release) <-- processing <-- received
                                                |   ^
                                                retrying

One observer serves a process. There is none by default, and then nothing is called. An observer is
called in the code that it observes: what it raises, that code raises.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, TypeAlias

from events.errors import BusError
from events.integration.message import Delivery, Message, Settlement

__all__ = ["Observer", "TraceMode", "current_observer", "observe", "observing", "system_of"]

TraceMode: TypeAlias = Literal["link", "parent"]
"""How the span of a handler belongs to the one in which its event was created."""


class Observer:
    """Base of what watches events on their way. Every method does nothing: override some.

    `system` names the broker as OpenTelemetry does, for example `rabbitmq`.
    """

    # --- sending ------------------------------------------------------------------------------

    def created(self, message: Message) -> Message:
        """Take note of a message that is put into an outbox, or is part of a `send_many`.

        Returns the message to go on with: `with_trace` adds the context of its creation.
        """
        return message

    def sending(self, message: Message, system: str) -> AbstractContextManager[Message]:
        """Run around one `send`; the block gets the message to send."""
        del system
        return nullcontext(message)

    def sending_batch(
        self, messages: Sequence[Message], system: str
    ) -> AbstractContextManager[list[BusError | Exception | None]]:
        """Run around a batch: a `send_many`, or rows of an outbox that a relay forwards.

        The block appends what became of each message, in their order: None, or an error.
        """
        del messages, system
        return nullcontext([])

    def postponed(self, message: Message, error: str, seconds: float) -> None:
        """Take note of a row of an outbox that was refused, and is tried again in some seconds."""

    def parked(self, message: Message, reason: str) -> None:
        """Take note of a row of an outbox that is not tried any more."""

    # --- consuming ----------------------------------------------------------------------------

    def received(self, delivery: Delivery, system: str) -> None:
        """Take note of a delivery that has come from the broker, as it came."""

    def processing(
        self, delivery: Delivery, system: str, trace: TraceMode, mask: Callable[[str], str]
    ) -> AbstractContextManager[None]:
        """Run around each attempt to handle a delivery, in the handler's task.

        `mask` takes the event's personal data out of a text, such as that of the handler's error.
        """
        del delivery, system, trace, mask
        return nullcontext()

    def retrying(self, delivery: Delivery, system: str, seconds: float) -> None:
        """Take note of an attempt that failed; the next one waits in this process."""

    def settled(self, delivery: Delivery, system: str, settlement: Settlement) -> None:
        """Take note of the end of a delivery: what the broker is asked to do with it.

        A `Retry` is delivered again, a `Reject` becomes a dead letter where the bus keeps those.
        """

    def duplicate(self, delivery: Delivery) -> None:
        """Take note of a delivery that an inbox has recognised, and that no handler gets."""

    # --- dead letters -------------------------------------------------------------------------

    def redriven(self, consumer: str, count: int, system: str) -> None:
        """Take note of dead letters that were sent back to their consumer."""

    def discarded(self, consumer: str, count: int, system: str) -> None:
        """Take note of dead letters that were removed."""


_observer: Observer | None = None


def observe(observer: Observer | None) -> Observer | None:
    """Have this one observe the process from now on, or nobody; return the one before.

    A second observer takes the place of the first. What is under way ends with the one that it
    began with.
    """
    global _observer
    before, _observer = _observer, observer
    return before


def current_observer() -> Observer | None:
    """Return the one that observes the process, or None."""
    return _observer


@contextmanager
def observing(observer: Observer) -> Generator[None]:
    """Have this one observe the process within the block."""
    before = observe(observer)
    try:
        yield
    finally:
        observe(before)


def system_of(transport: object) -> str:
    """Return how OpenTelemetry calls the transport's broker: its `system`, if it has one."""
    system: object = getattr(transport, "system", None)
    return system if isinstance(system, str) else "other"
