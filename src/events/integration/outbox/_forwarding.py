"""From rows to a bus, and the outcome of each row: accepted, refused, or untouched.

    the bus returned                                        --> accepted
    it is down, not started, or the outcome is unknown      --> untouched, it says nothing of it
    it raised anything else                                 --> refused: it would do so again
    a row of its key was not accepted, in `per_key`         --> untried

A bus of ours takes bytes. One on the bare port takes events, so it gets them decoded, one after
another; ids, keys and headers have no place in its `send`. Its errors say less, too: an `OSError`
may be the broker's absence, or what this one event does each time. So an event that fails like that
is put into quarantine, and the next one that is not there shows which it was:

    failed, and the other failed as well           --> the bus is down, all are untouched
    failed, the other was taken, then failed again --> refused: the bus is up
    failed, the other was taken, then taken        --> accepted
    failed, and there is no other                  --> untouched
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from msgspec import Struct

from events.errors import BusError, BusNotStartedError, BusUnavailableError, SendOutcomeUnknownError
from events.integration.bus import IntegrationEventBus
from events.integration.event import IntegrationEvent
from events.integration.message import Message
from events.integration.observation import current_observer
from events.integration.outbox.port import OutboxRow
from events.integration.pipeline.cancelling import failure_of
from events.integration.topology import Topic
from events.integration.upcasting import event_from_body


class Blamed(Struct, frozen=True):
    """An error that is the row's own, though of a kind that mostly is not."""

    error: Exception


Fate: TypeAlias = Exception | Blamed | None
Forward: TypeAlias = Callable[[Sequence[Message], float], Coroutine[Any, Any, Sequence[Fate]]]
"""Send messages in order, within so many seconds, and report the outcome of each."""

_NOT_THE_ROWS_FAULT = (BusUnavailableError, SendOutcomeUnknownError, BusNotStartedError, OSError)


@runtime_checkable
class ForwardingBus(Protocol):
    """A bus that takes messages as they are; see `TransportIntegrationEventBus.forward`."""

    async def forward(self, messages: Sequence[Message]) -> Sequence[BusError | None]:
        """Send messages in order, many in flight, and report the outcome of each."""
        ...


class Outcome(Struct, frozen=True):
    """The outcome of a batch. `outage` is the first error that was not a row's fault."""

    accepted: Sequence[OutboxRow]
    refused: Sequence[tuple[OutboxRow, Exception]]
    outage: Exception | None = None


async def forward_in_waves(
    forward: Forward, waves: Sequence[Sequence[OutboxRow]], remaining: Callable[[], float]
) -> Outcome:
    """Forward one wave after another, as long as seconds remain; an outage ends it.

    Of a key of which a row was refused, no further row is tried: it is read again.
    """
    accepted: list[OutboxRow] = []
    refused: list[tuple[OutboxRow, Exception]] = []
    stuck: set[str | None] = set()
    for wave in waves:
        if stuck:
            wave = [r for r in wave if r.message.key not in stuck]  # noqa: PLW2901
        seconds = remaining()
        if seconds <= 0:
            return Outcome(accepted, refused, TimeoutError("no time is left for it"))
        outcome = sort(wave, await forward([row.message for row in wave], seconds))
        accepted += outcome.accepted
        refused += outcome.refused
        if outcome.outage is not None:
            return Outcome(accepted, refused, outcome.outage)
        stuck.update(r.message.key for r, _ in outcome.refused if r.message.key is not None)
    return Outcome(accepted, refused)


def forward_to(bus: IntegrationEventBus, *, timeout: float) -> Forward:
    """Return the way messages take to this bus. `timeout` is for each `send` of a bare one."""
    if isinstance(bus, ForwardingBus):
        return _BytesTo(bus)
    return _EventsTo(bus, timeout)


def sort(rows: Sequence[OutboxRow], fates: Sequence[Fate]) -> Outcome:
    """Separate accepted rows, refused rows, and an outage."""
    accepted: list[OutboxRow] = []
    refused: list[tuple[OutboxRow, Exception]] = []
    outage: Exception | None = None
    for row, fate in zip(rows, fates, strict=True):
        if fate is None:
            accepted.append(row)
        elif isinstance(fate, Blamed):
            refused.append((row, fate.error))
        elif isinstance(fate, _NOT_THE_ROWS_FAULT):
            outage = outage or fate
        else:
            refused.append((row, fate))
    return Outcome(accepted, refused, outage)


class _BytesTo:
    def __init__(self, bus: ForwardingBus) -> None:
        self._bus = bus

    async def __call__(self, messages: Sequence[Message], seconds: float) -> Sequence[Fate]:
        if not messages:
            return []
        try:
            async with asyncio.timeout(seconds):
                return await self._bus.forward(messages)
        except (BusError, OSError) as error:
            return [error] * len(messages)
        except asyncio.CancelledError as error:
            return [_given_up(message, error) for message in messages]
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this row's
            if len(messages) == 1:
                return [error]
            # One message, or a bug, has made the whole batch fail. Alone, only the bad ones do.
            until = asyncio.get_running_loop().time() + seconds
            return [(await self([message], _left(until)))[0] for message in messages]


class _EventsTo:
    def __init__(self, bus: IntegrationEventBus, timeout: float) -> None:
        self._bus = bus
        self._timeout = timeout
        self._quarantined: set[str] = set()

    async def __call__(self, messages: Sequence[Message], seconds: float) -> Sequence[Fate]:
        observer = current_observer()  # which a bus of ours calls by itself
        if observer is None or not messages:
            return await self._forward(messages, seconds)
        with observer.sending_batch(messages, "other") as seen:
            fates = await self._forward(messages, seconds)
            seen.extend(fate.error if isinstance(fate, Blamed) else fate for fate in fates)
            return fates

    async def _forward(self, messages: Sequence[Message], seconds: float) -> Sequence[Fate]:
        until = asyncio.get_running_loop().time() + seconds
        fates: dict[int, Fate] = {}
        fate: Fate = None
        for position, message in enumerate(messages):
            if position in fates:
                continue
            fates[position] = fate = await self._send(message, until)
            if isinstance(fate, _NOT_THE_ROWS_FAULT):
                if not await self._is_up(messages, fates, until):
                    break
                fates[position] = await self._send_again(message, until)
            self._quarantined.discard(message.id)
        return [fates.get(position, fate) for position in range(len(messages))]

    async def _is_up(
        self, messages: Sequence[Message], fates: dict[int, Fate], until: float
    ) -> bool:
        """Send those not in quarantine, until one is taken or fails like the bus itself."""
        for position, message in enumerate(messages):
            if position not in fates and message.id not in self._quarantined:
                fates[position] = fate = await self._send(message, until)
                if fate is None:
                    return True
                if isinstance(fate, _NOT_THE_ROWS_FAULT):
                    self._quarantined.add(message.id)
                    return False
        self._quarantined.clear()  # none is left to compare with: begin again
        return False

    async def _send_again(self, message: Message, until: float) -> Fate:
        """Send once more what failed before another was taken."""
        error = await self._send(message, until)
        if error is None or _left(until) <= 0:  # then the time was up
            return error
        return Blamed(error)

    async def _send(self, message: Message, until: float) -> Exception | None:
        try:
            event = event_from_body(IntegrationEvent, message.body)
            async with asyncio.timeout(min(self._timeout, _left(until))):
                await self._bus.send(Topic(message.topic), event)
        except asyncio.CancelledError as error:
            return _given_up(message, error)
        except Exception as error:  # noqa: BLE001 - a bus of the user's may raise anything
            return error
        return None


def _given_up(message: Message, error: asyncio.CancelledError) -> SendOutcomeUnknownError:
    """Return what a bus says that cancels a send: of this one alone, as others were taken before.

    That of the running task is raised.
    """
    cause = failure_of(error)
    unknown = SendOutcomeUnknownError("the bus", message.id, "it gave up the call by cancelling it")
    unknown.__cause__ = cause
    return unknown


def _left(until: float) -> float:
    return max(0.0, until - asyncio.get_running_loop().time())
