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
from events.integration.implementation.rabbitmq._held import FIRST_PAUSE, Held
from events.integration.implementation.rabbitmq._publisher import Publisher
from events.integration.implementation.rabbitmq._topology import Queue
from events.integration.message import Ack

__all__ = ["LONGEST_PAUSE", "Moves"]

logger = logging.getLogger("events.integration")

LONGEST_PAUSE = 30.0  # seconds


class Moves:
    """Those of one registration. Each is among `held` until it is acknowledged or given up."""

    def __init__(
        self,
        publisher: Publisher,
        held: set[Held],
        *,
        acknowledge: Callable[[Held], None],
        give_up: Callable[[Held], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._publisher = publisher
        self._held = held
        self._acknowledge = acknowledge
        self._give_up = give_up
        self._put_off: set[asyncio.TimerHandle] = set()
        self._trying = True

    def move(self, held: Held, queue: Queue, properties: Properties) -> None:
        """Publish it to the queue, and acknowledge it when it is there."""
        self._held.add(held)
        properties.type = properties.type or held.type  # its routing key is the queue's name now
        published = self._publisher.publish(
            "", queue.name, properties, held.body, place=queue, mandatory=True
        )

        def moved(published: asyncio.Future[None]) -> None:
            error = None if published.cancelled() else published.exception()
            if isinstance(error, MessageTooLargeError) and error.part == "headers":
                self._shorten(held, queue, properties, error)
            elif error is None:
                held.settlement = Ack()
                if held in self._held:
                    self._acknowledge(held)
            elif held in self._held:
                self._move_later(held, queue, properties, error)
            else:
                self._give_up(held)  # its channel was lost meanwhile

        published.add_done_callback(moved)

    def _shorten(
        self, held: Held, queue: Queue, properties: Properties, error: MessageTooLargeError
    ) -> None:
        """Move it without the end of its longest headers: with all of them it could not go on."""
        logger.error(
            "%s has headers that leave no room for what %s needs beside them, so the longest are "
            "cut: %s",
            wire.id_of(held.properties, held.body),
            queue,
            error,
        )
        shorter = wire.shortened(properties, error.size - error.limit)
        if held not in self._held:
            self._give_up(held)  # its channel was lost meanwhile
        elif shorter.headers == properties.headers:
            self._move_later(held, queue, properties, error)
        else:
            self.move(held, queue, shorter)

    def _move_later(
        self, held: Held, queue: Queue, properties: Properties, error: BaseException
    ) -> None:
        if not isinstance(error, BusError) or not self._trying:
            self._give_up(held)
            return
        held.backoff = held.backoff or Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        pause = held.backoff.take()
        logger.error(
            "%s cannot be put into %s, it stays where it is and is tried again in %.3g s: %s",
            wire.id_of(held.properties, held.body),
            queue,
            pause,
            error,
        )

        def again() -> None:
            self._put_off.discard(timer)
            if held in self._held:
                self.move(held, queue, properties)

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
