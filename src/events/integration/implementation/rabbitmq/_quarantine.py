"""Quarantine: events of which each may have ended its process are handled one at a time.

A broker cannot tell which of the many that a process had in flight has ended it. So what comes back
for the second time is moved to a queue of its own, unchanged, whose deliveries are handled one at a
time in each process. There, one that comes back again has had its process to itself: it is moved to
the end with one crash more, and so becomes a dead letter, while those that were merely near it are
handled at their first turn. None is handled while others are on their way to that queue: it may end
the process, and they would be in both. Ordinary queues do without a queue's own limit on
deliveries; it is set all the same, against processes that die before they have looked.

A shutdown is no crash, but the broker counts alike whatever it takes back, handled or not: what
comes while a consumer is being cancelled, it takes back at once. Nothing comes while the only one
is unacknowledged. So from the beginning of the end the one that is here is held on to, and if none
is, one that is on its way is waited for. Only then is the consumer cancelled. After that what has
ended is acknowledged, and what was not begun is moved to the end as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import TypeAlias

from events.integration.implementation.rabbitmq import _wire as wire
from events.integration.implementation.rabbitmq._channel import Channel
from events.integration.implementation.rabbitmq._driver import Properties
from events.integration.implementation.rabbitmq._in_flight import InFlight
from events.integration.implementation.rabbitmq._topology import BRIEFLY, Names, Queue, counts

Move: TypeAlias = Callable[[InFlight, Queue, Properties], None]

_COMES_BACK = 2  # times, and it is set apart; a deploy takes back what is in flight once
_LOOKS, _BETWEEN_LOOKS = 50, 0.01  # for one that is on its way; others may get what waits


class Quarantine:
    """The quarantine of one registration: messages on their way to its queue and to a handler.

    `in_flight` are all its deliveries that are not acknowledged and not waiting here.
    """

    def __init__(
        self,
        names: Names,
        in_flight: Collection[InFlight],
        *,
        move: Move,
        hand_over: Callable[[InFlight], None],
        acknowledge: Callable[[InFlight], None],
    ) -> None:
        self._names = names
        self._in_flight = in_flight
        self._move = move
        self._hand_over = hand_over
        self._acknowledge = acknowledge
        self._moving: set[InFlight] = set()  # to their queue
        self._next: InFlight | None = None  # from there; waits for those, or for the end
        # Lost with their channel before a handler saw them: one at a time.
        self._unbegun: set[tuple[str, str, int, int]] = set()
        self._ended: list[InFlight] = []  # to be acknowledged when the consumer is cancelled
        self._taking = True
        self._leaving = False

    @property
    def is_leaving(self) -> bool:
        """Return whether it takes no more, and still has to wait for what comes."""
        return self._leaving

    def take_back(self, in_flight: InFlight) -> bool:
        """Move what the broker had to take back to where it is alone, if it came too often."""
        properties, crashes = in_flight.properties, self._suspicious
        if in_flight.quarantined and in_flight.identity in self._unbegun:
            self._unbegun.discard(in_flight.identity)
            return False  # its channel was lost before a handler saw it
        if in_flight.quarantined:
            crashes = in_flight.crashes + 1
        elif wire.returns_of(properties, redelivered=True) >= self._suspicious:
            self._moving.add(in_flight)
        else:
            return False
        self._move(in_flight, self._names.quarantine, wire.with_crashes(properties, crashes))
        return True

    @property
    def _suspicious(self) -> int:
        """Return after how many returns a message is set apart; classic queues tell but one."""
        return _COMES_BACK if self._names.counts_returns else 1

    def take(self, in_flight: InFlight) -> None:
        """Have one handled, once none is on its way to the queue that it comes from."""
        if self._moving or not self._taking:
            self._next = in_flight  # the only one, by its prefetch
        else:
            self._hand_over(in_flight)

    def put_back(self, in_flight: InFlight) -> None:
        """Move one to the end as it is: given back, it would seem to have ended its process."""
        properties = wire.with_crashes(in_flight.properties, in_flight.crashes)
        self._move(in_flight, self._names.quarantine, properties)

    def keeps(self, in_flight: InFlight) -> bool:
        """Return whether it is acknowledged later, as another would come in its place."""
        if self._leaving and in_flight.quarantined:
            self._ended.append(in_flight)
            return True
        return False

    def done(self, in_flight: InFlight) -> None:
        """Go on, after a delivery of any queue is done with."""
        self._moving.discard(in_flight)
        first = self._next
        if first is not None and not self._moving and self._taking:
            self._next = None
            self._hand_over(first)

    def forget(self) -> None:
        """Forget all: their channel is lost."""
        self._moving.clear()
        self._unbegun = set() if self._next is None else {self._next.identity}
        self._next = None
        self._ended.clear()

    # --- the end ------------------------------------------------------------------------------

    def stop(self) -> None:
        """Hand none over any more, and hold on to the one that is here or comes."""
        self._leaving = self._leaving or self._taking
        self._taking = False

    async def leave(self, channel: Channel, consumer: str) -> None:
        """Cancel the consumer at a moment when nothing is on its way to it."""
        looks, empty = 0, 0
        # The answer to the second look at an empty queue comes behind what was sent by the first.
        while not self._has_one and empty <= 1 and looks < _LOOKS:
            waiting, _ = await counts(channel, self._names.quarantine.name, BRIEFLY)
            if waiting:
                empty = 0
                await asyncio.sleep(_BETWEEN_LOOKS)
            else:
                empty += 1
            looks += 1
        await channel.call("basic_cancel", consumer_tag=consumer)

    @property
    def _has_one(self) -> bool:
        return self._next is not None or any(in_flight.quarantined for in_flight in self._in_flight)

    def left(self) -> None:
        """Release the delivery that was kept."""
        self._leaving = False
        ended, self._ended = self._ended, []
        for in_flight in ended:
            self._acknowledge(in_flight)
        first, self._next = self._next, None
        if first is not None:
            self.put_back(first)
