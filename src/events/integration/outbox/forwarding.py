"""From rows to a bus, and what became of each row: accepted, refused, or untouched.

    the bus returned                                        --> accepted
    it is down, not started, or nobody knows what happened  --> untouched, it says nothing of it
    it raised anything else                                 --> refused: it would do so again

A bus of ours takes bytes. One on the bare port takes events, so it gets them decoded, one after
another; ids, keys and headers have no place in its `send`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from msgspec import Struct

from events.errors import BusError, BusNotStartedError, BusUnavailableError, SendOutcomeUnknownError
from events.integration.bus import IntegrationEventBus
from events.integration.codec import read_object
from events.integration.event import IntegrationEvent
from events.integration.message import Message
from events.integration.outbox.port import OutboxRow
from events.integration.topology import Topic

__all__ = ["Forward", "ForwardingBus", "Outcome", "forward_to", "sort"]

Forward: TypeAlias = Callable[
    [Sequence["Message"]], Coroutine[Any, Any, Sequence[Exception | None]]
]
"""Send messages in order and say of each what became of it."""

_NOT_THE_ROWS_FAULT = (BusUnavailableError, SendOutcomeUnknownError, BusNotStartedError, OSError)


@runtime_checkable
class ForwardingBus(Protocol):
    """A bus that takes messages as they are; see `TransportIntegrationEventBus.forward`."""

    async def forward(self, messages: Sequence[Message]) -> Sequence[BusError | None]:
        """Send messages in order, many in flight, and say of each what became of it."""
        ...


class Outcome(Struct, frozen=True):
    """What became of a batch. `trouble` is the first error that was not a row's fault."""

    accepted: Sequence[OutboxRow]
    refused: Sequence[tuple[OutboxRow, Exception]]
    trouble: Exception | None


def forward_to(bus: IntegrationEventBus, *, timeout: float) -> Forward:
    """Return the way messages take to this bus. `timeout` is for each `send` of a bare one."""
    if isinstance(bus, ForwardingBus):
        return _BytesTo(bus)
    return _EventsTo(bus, timeout)


def sort(rows: Sequence[OutboxRow], errors: Sequence[Exception | None]) -> Outcome:
    """Tell the rows that were accepted from those that were refused, and from trouble."""
    failed = [(row, error) for row, error in zip(rows, errors, strict=True) if error is not None]
    untouched = [error for _, error in failed if isinstance(error, _NOT_THE_ROWS_FAULT)]
    return Outcome(
        accepted=[row for row, error in zip(rows, errors, strict=True) if error is None],
        refused=[(row, e) for row, e in failed if not isinstance(e, _NOT_THE_ROWS_FAULT)],
        trouble=untouched[0] if untouched else None,
    )


class _BytesTo:
    def __init__(self, bus: ForwardingBus) -> None:
        self._bus = bus

    async def __call__(self, messages: Sequence[Message]) -> Sequence[Exception | None]:
        try:
            return await self._bus.forward(messages)
        except (BusError, OSError) as error:
            return [error] * len(messages)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this row's
            if len(messages) == 1:
                return [error]
            # One message, or a bug, has made the whole batch fail. Alone, only the bad ones do.
            return [(await self([message]))[0] for message in messages]


class _EventsTo:
    def __init__(self, bus: IntegrationEventBus, timeout: float) -> None:
        self._bus = bus
        self._timeout = timeout

    async def __call__(self, messages: Sequence[Message]) -> Sequence[Exception | None]:
        outcomes: list[Exception | None] = []
        for message in messages:
            outcome = await self._send(message)
            outcomes.append(outcome)
            if isinstance(outcome, _NOT_THE_ROWS_FAULT):
                break
        return outcomes + outcomes[-1:] * (len(messages) - len(outcomes))

    async def _send(self, message: Message) -> Exception | None:
        try:
            event = IntegrationEvent.from_dict(read_object(message.body))
            async with asyncio.timeout(self._timeout):
                await self._bus.send(Topic(message.topic), event)
        except Exception as error:  # noqa: BLE001 - a bus of the user's may raise anything
            return error
        return None
