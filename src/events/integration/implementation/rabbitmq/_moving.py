"""Deliveries on their way to another of the consumer's queues.

    published there --confirmed--> acknowledged where it came from
        ^       '--failed--> put off: it stays unacknowledged, and is tried again after a pause
        '---------------------'

At the end nothing is put off any more. What then fails is given up, and is the broker's again when
the channel ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from events.errors import BusError, MessageTooLargeError
from events.integration.brokering.backoff import Backoff
from events.integration.implementation.rabbitmq import _wire as wire
from events.integration.implementation.rabbitmq._driver import Properties
from events.integration.implementation.rabbitmq._in_flight import InFlight
from events.integration.implementation.rabbitmq._publisher import Publisher
from events.integration.implementation.rabbitmq._topology import Queue
from events.integration.message import Ack

logger = logging.getLogger("events.integration")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0  # seconds


class Moves:
    """The deliveries of one registration, each in flight until it is acknowledged or dropped."""

    def __init__(
        self,
        publisher: Publisher,
        in_flight: set[InFlight],
        *,
        acknowledge: Callable[[InFlight], None],
        give_up: Callable[[InFlight], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._publisher = publisher
        self._in_flight = in_flight
        self._acknowledge = acknowledge
        self._give_up = give_up
        self._put_off: set[asyncio.TimerHandle] = set()
        self._trying = True

    def move(self, in_flight: InFlight, queue: Queue, properties: Properties) -> None:
        """Publish it to the queue, and acknowledge it when it is there."""
        self._in_flight.add(in_flight)
        published = self._publisher.publish(
            "", queue.name, properties, in_flight.body, place=queue, mandatory=True
        )

        def moved(published: asyncio.Future[None]) -> None:
            error = asyncio.CancelledError() if published.cancelled() else published.exception()
            if isinstance(error, MessageTooLargeError) and error.part == "headers":
                self._shorten(in_flight, queue, properties, error)
            elif error is None:
                in_flight.settlement = Ack()
                if in_flight in self._in_flight:
                    self._acknowledge(in_flight)
            elif in_flight in self._in_flight:
                self._move_later(in_flight, queue, properties, error)
            else:
                self._give_up(in_flight)  # its channel was lost meanwhile

        published.add_done_callback(moved)

    def _shorten(
        self, in_flight: InFlight, queue: Queue, properties: Properties, error: MessageTooLargeError
    ) -> None:
        """Move it without the end of its longest headers: with all of them it could not go on."""
        logger.error(
            "%s has headers that leave no room for those that %s adds, so the longest are cut: %s",
            wire.id_of(in_flight.properties, in_flight.body),
            queue,
            error,
        )
        shorter = wire.shortened(properties, error.size - error.limit)
        if in_flight not in self._in_flight:
            self._give_up(in_flight)  # its channel was lost meanwhile
        elif shorter.headers == properties.headers:
            self._move_later(in_flight, queue, properties, error)
        else:
            self.move(in_flight, queue, shorter)

    def _move_later(
        self, in_flight: InFlight, queue: Queue, properties: Properties, error: BaseException
    ) -> None:
        if not isinstance(error, BusError) or not self._trying:
            self._give_up(in_flight)
            return
        in_flight.backoff = in_flight.backoff or Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        pause = in_flight.backoff.take()
        logger.error(
            "%s cannot be moved to %s. It stays in its queue; next attempt in %.3g s: %s",
            wire.id_of(in_flight.properties, in_flight.body),
            queue,
            pause,
            error,
        )

        def again() -> None:
            self._put_off.discard(timer)
            if in_flight in self._in_flight:
                self.move(in_flight, queue, properties)

        timer = self._loop.call_later(pause, again)
        self._put_off.add(timer)

    def stop(self) -> None:
        """Put none off any more."""
        self._trying = False

    def abandon(self) -> bool:
        """Cancel the next attempts of what was put off; tell whether there were any."""
        put_off, self._put_off = self._put_off, set()
        for timer in put_off:
            timer.cancel()
        return bool(put_off)
