"""The canary: the dead letter that is redriven first. Its outcome decides on the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Literal

from events.errors import (
    BusUnavailableError,
    CanaryFailedError,
    NoSuchDeadLetterError,
    UnsupportedByBusError,
)
from events.integration.brokering.backoff import Backoff
from events.integration.brokering.doing import doing
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.message import DeadLetter
from events.integration.observation import current_observer, system_of
from events.integration.topology import Topic
from events.integration.transport import Receipt, ReceiptSource
from events.operations._reading import paged

_SURE = 2  # counts one after the other, of nothing


class Canary:
    """A dead letter that is redriven first; `known` are the ids of all earlier dead letters."""

    def __init__(
        self, bus: TransportIntegrationEventBus, letter: DeadLetter, known: set[str]
    ) -> None:
        self._bus = bus
        self._letter = letter
        self._known = known
        self._receipt: Receipt | None = None

    async def redrive(self, consumer: str, ids: Sequence[str]) -> int:
        """Redrive it with the bus, and keep the receipt, if the store returns one."""
        store: object = self._bus.transport.dead_letters
        if not isinstance(store, ReceiptSource):
            return await self._bus.redrive(consumer, ids)
        with doing(f"redrive dead letters of {consumer!r}"):
            self._receipt = await store.redrive_with_receipt(consumer, ids[0])
        if self._receipt is None:
            raise NoSuchDeadLetterError(consumer, ids)
        if (observer := current_observer()) is not None:
            observer.redriven(consumer, 1, system_of(self._bus.transport))
        return 1

    async def outcome(
        self, seconds: float, *, trust_silence: bool
    ) -> Literal["handled", "trusted"]:
        """Return when its event is handled; raise `CanaryFailedError` if it failed again.

        It is handled if its receipt says so, or if its consumer has nothing left to handle and it
        is not a dead letter. A message may be in transit between two of the broker's counts, so
        they are read twice.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        backoff = Backoff(0.05, 1.0)
        nothing_left = 0
        letter = self._letter
        while True:
            over = loop.time() >= deadline
            try:
                if self._receipt is not None and await self._receipt.is_handled():
                    nothing_left = _SURE
                elif await self._has_nothing_left():
                    nothing_left += 1
                else:
                    nothing_left = 0
                again = await self._died_again()
            except BusUnavailableError:
                again, nothing_left = None, 0  # during an outage, the outcome is unknown
            if again is not None:
                raise CanaryFailedError(letter.consumer, letter.message.id, again.error)
            if nothing_left == _SURE:
                return "handled"
            if over:
                if trust_silence:
                    return "trusted"
                raise CanaryFailedError(letter.consumer, letter.message.id, None)
            await backoff.pause()

    async def _has_nothing_left(self) -> bool:
        """Return whether nothing is left to handle, where the broker counts what is in flight."""
        topics = [Topic(self._letter.message.topic)]
        try:
            left = await self._bus.backlog(self._letter.consumer, topics=topics)
        except UnsupportedByBusError:
            return False
        return left.waiting == 0 and left.in_flight == 0 and not left.delayed

    async def _died_again(self) -> DeadLetter | None:
        async with aclosing(paged(self._bus, self._letter.consumer, self._letter.id)) as letters:
            async for each in letters:
                if each.message.id == self._letter.message.id and each.id not in self._known:
                    return each
        return None
