"""The suspects: events of which each may have ended its process.

A broker cannot tell who of the many that were in a process's hands has killed it. So what comes
back for the second time is moved to a queue of suspects, unchanged, where deliveries are handled
one at a time in each process. There, one that comes back again has had its process to itself: it is
moved to the end with one attempt more, and so ends as a dead letter, while those that were merely
near it are handled at their first turn. No suspect is handled while others are on their way to that
queue: it may end the process, and they would be in both. Ordinary queues do without a queue's own
limit on deliveries; it is set all the same, against processes that die before they have looked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from events.integration.implementation.rabbitmq import _wire as wire
from events.integration.implementation.rabbitmq._driver import Properties
from events.integration.implementation.rabbitmq._held import Held
from events.integration.implementation.rabbitmq._topology import Names, Queue

__all__ = ["Move", "Suspects"]

Move: TypeAlias = Callable[[Held, Queue, Properties], None]

_COMES_BACK = 2  # times, and it is a suspect; a deploy takes back what is at hand once


class Suspects:
    """Those of one registration: on their way to their queue, and from there to a handler."""

    def __init__(self, names: Names, *, move: Move, hand_over: Callable[[Held], None]) -> None:
        self._names = names
        self._move = move
        self._hand_over = hand_over
        self._moving: set[Held] = set()  # to their queue
        self._next: Held | None = None  # from there; waits for those

    def take_back(self, held: Held) -> bool:
        """Move what the broker had to take back to where it is alone, if it came too often."""
        properties = held.properties
        attempt = wire.attempt_of(properties)
        if held.suspect:
            attempt += 1
        elif wire.returns_of(properties, redelivered=True) >= self._suspicious:
            self._moving.add(held)
        else:
            return False
        self._move(held, self._names.suspects, wire.with_attempt(properties, attempt))
        return True

    @property
    def _suspicious(self) -> int:
        """Return after how many returns a message is a suspect; classic queues tell but one."""
        return _COMES_BACK if self._names.counts_returns else 1

    def take(self, held: Held) -> None:
        """Have a suspect handled, once none is on its way to the queue that it comes from."""
        if self._moving:
            self._next = held  # the only one, by its prefetch
        else:
            self._hand_over(held)

    def put_back(self, held: Held) -> None:
        """Move one to the end as it is: given back, it would seem to have ended its process."""
        attempt = wire.attempt_of(held.properties)
        self._move(held, self._names.suspects, wire.with_attempt(held.properties, attempt))

    def done(self, held: Held, *, taking: bool) -> None:
        """Go on, after a delivery of any queue is done with."""
        self._moving.discard(held)
        suspect = self._next
        if suspect is not None and not self._moving and taking:
            self._next = None
            self._hand_over(suspect)

    def forget(self) -> None:
        """Forget all: their channel is lost."""
        self._moving.clear()
        self._next = None
