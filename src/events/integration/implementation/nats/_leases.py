"""Messages that are ours until they are settled, and the signs of life that keep them so.

    taken --answered: done, again, again later--> gone
      '--every third of ack_wait--> kept

A lost connection changes nothing: answers leave when there is one again. The server may deliver
once more what it has not noted as done, when it comes back from a crash or a lease was over; what
is still here, or was done by this process not long ago, is not taken a second time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from events.integration.brokering.handled import Handled
from events.integration.implementation.nats import _wire as wire
from events.integration.implementation.nats._driver import Incoming
from events.integration.implementation.nats._link import Link
from events.integration.implementation.nats._topology import NANO
from events.integration.implementation.nats._writer import Outgoing, Writer

_DONE, _AGAIN, _ALIVE = b"+ACK", b"-NAK", b"+WPI"
_REMEMBERED = 10_000  # messages that were done


class InFlight:
    """A message that is ours."""

    __slots__ = (
        "attempt",
        "body",
        "crashes",
        "delivered",
        "headers",
        "key",
        "name",
        "reply",
        "subject",
        "written",
    )

    def __init__(self, message: Incoming, key: tuple[int, str], name: str, delivered: int) -> None:
        self.subject = message.subject
        self.reply = message.reply
        self.body = message.body
        self.headers = message.headers or {}
        self.key = key
        self.name = name
        self.delivered = delivered  # so often, this time included
        self.attempt = 1
        self.crashes = 0  # deliveries before this one that ended without an outcome
        self.written = False  # there is an entry of its attempts


class Leases:
    """Hold messages of one consumer; `owner` is the stream's and the consumer's name."""

    def __init__(self, link: Link, writer: Writer, owner: str, ack_wait: float) -> None:
        self._link = link
        self._writer = writer
        self._owner = owner
        self._pause = ack_wait / 3
        # By sequence and time, as a stream that was lost and made again starts with 1 again.
        self._in_flight: dict[tuple[int, str], InFlight] = {}
        self._done = Handled(_REMEMBERED)
        self._pulse: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._in_flight)

    def __iter__(self) -> Iterator[InFlight]:
        return iter(self._in_flight.values())

    def take(self, message: Incoming) -> InFlight | None:
        """Return the message as ours; None if it is, or if it is done."""
        sequence, stored, delivered = wire.position(message.reply)
        key = sequence, stored
        known = self._in_flight.get(key)
        if known is not None:
            known.reply = message.reply  # its lease was over before we said a word; it goes on
            return None
        # Not only if it says that it was delivered before: the server may have forgotten that, too.
        if key in self._done:
            self.skip(message)
            return None
        name = f"{self._owner}.{sequence}-{stored}"
        in_flight = self._in_flight[key] = InFlight(message, key, name, delivered)
        return in_flight

    def skip(self, message: Incoming) -> None:
        """Be done with a message that was never taken."""
        self._writer.put_with_others(Outgoing(message.reply, _DONE))

    def done(self, in_flight: InFlight) -> None:
        """Be done with a message."""
        self._answer(in_flight, _DONE)
        self._done.add(in_flight.key)

    def again(self, in_flight: InFlight, after: float = 0.0) -> None:
        """Redeliver it, to any process of the consumer."""
        delay = int(after * NANO)
        self._answer(in_flight, b'%b {"delay": %d}' % (_AGAIN, delay) if delay > 0 else _AGAIN)

    def forget_done(self) -> None:
        """Take whatever comes: the server starts again."""
        self._done.clear()

    def start(self) -> None:
        """Begin to give signs of life."""
        self._pulse = asyncio.get_running_loop().call_later(self._pause, self._beat)

    def stop(self) -> None:
        """Stop renewing."""
        if self._pulse is not None:
            self._pulse.cancel()

    def _answer(self, in_flight: InFlight, word: bytes) -> None:
        if self._in_flight.pop(in_flight.key, None) is not None:
            self._writer.put_with_others(Outgoing(in_flight.reply, word))

    def _beat(self) -> None:
        self.start()
        if self._link.is_up:
            for in_flight in self._in_flight.values():
                self._writer.put(Outgoing(in_flight.reply, _ALIVE))
