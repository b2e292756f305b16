"""Messages that are ours until they are settled, and the signs of life that keep them so.

    taken --answered: done, again, again later--> gone
      '--every third of ack_wait--> kept

A lost connection changes nothing: answers leave when there is one again. The server may deliver
once more what it has not noted as done, when it comes back from a crash or a lease was over; what
is still here, or was done by this process not long ago, is not taken a second time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

from events.integration.implementation.nats import _wire as wire
from events.integration.implementation.nats._driver import Incoming
from events.integration.implementation.nats._link import Link
from events.integration.implementation.nats._topology import NANO
from events.integration.implementation.nats._writer import Outgoing, Writer

__all__ = ["Hand", "Leases"]

_DONE, _AGAIN, _ALIVE = b"+ACK", b"-NAK", b"+WPI"
_REMEMBERED = 10_000  # messages that were done


class Hand:
    """A message that is ours."""

    __slots__ = (
        "attempt",
        "body",
        "crashes",
        "headers",
        "name",
        "place",
        "reply",
        "subject",
        "written",
    )

    def __init__(self, message: Incoming, place: wire.Position, name: str) -> None:
        self.subject = message.subject
        self.reply = message.reply
        self.body = message.body
        self.headers = message.headers or {}
        self.place = place
        self.name = name
        self.attempt = 1
        self.crashes = 0  # deliveries before this one that ended without a word
        self.written = False  # there is an entry of its attempts


class Leases:
    """Hold messages of one consumer; `owner` is the stream's and the consumer's name."""

    def __init__(self, link: Link, writer: Writer, owner: str, ack_wait: float) -> None:
        self._link = link
        self._writer = writer
        self._owner = owner
        self._pause = ack_wait / 3
        # By sequence and time: a stream that was lost and made again begins with 1 anew.
        self._held: dict[tuple[int, str], Hand] = {}
        self._done: set[tuple[int, str]] = set()
        self._done_in_order: deque[tuple[int, str]] = deque()
        self._pulse: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Hand]:
        return iter(self._held.values())

    def take(self, message: Incoming) -> Hand | None:
        """Return the message as ours; None if it is, or if it is done."""
        place = wire.position(message.reply)
        key = place.key
        known = self._held.get(key)
        if known is not None:
            known.reply = message.reply  # its lease was over before we said a word; it goes on
            return None
        # Not only if it says that it was delivered before: the server may have forgotten that, too.
        if key in self._done:
            self.skip(message)
            return None
        hand = Hand(message, place, f"{self._owner}.{place.sequence}-{place.stored}")
        self._held[key] = hand
        return hand

    def skip(self, message: Incoming) -> None:
        """Be done with a message that was never taken."""
        self._writer.put_with_others(Outgoing(message.reply, _DONE))

    def done(self, hand: Hand) -> None:
        """Be done with a message."""
        self._answer(hand, _DONE)
        self._done.add(hand.place.key)
        self._done_in_order.append(hand.place.key)
        if len(self._done_in_order) > _REMEMBERED:
            self._done.discard(self._done_in_order.popleft())

    def again(self, hand: Hand, after: float = 0.0) -> None:
        """Have it delivered again, to whoever asks."""
        delay = int(after * NANO)
        self._answer(hand, b'%b {"delay": %d}' % (_AGAIN, delay) if delay > 0 else _AGAIN)

    def forget_done(self) -> None:
        """Take whatever comes: the server begins anew."""
        self._done.clear()
        self._done_in_order.clear()

    def start(self) -> None:
        """Begin to give signs of life."""
        self._pulse = asyncio.get_running_loop().call_later(self._pause, self._beat)

    def stop(self) -> None:
        """Give none any more."""
        if self._pulse is not None:
            self._pulse.cancel()

    def _answer(self, hand: Hand, word: bytes) -> None:
        if self._held.pop(hand.place.key, None) is not None:
            self._writer.put_with_others(Outgoing(hand.reply, word))

    def _beat(self) -> None:
        self.start()
        if self._link.is_up:
            for hand in self._held.values():
                self._writer.put(Outgoing(hand.reply, _ALIVE))
