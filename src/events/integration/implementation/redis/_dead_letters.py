"""The dead letters of a consumer: a stream for each of its topics, read as one list by time.

A dead letter's id is that of its entry and its topic, `1700000000000-0@users`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Sequence
from typing import Any, TypeVar

from events.errors import BusUnavailableError
from events.integration.brokering.dead_letters import NAMES, read_dead_letter
from events.integration.cloudevents import attribute
from events.integration.health import Backlog
from events.integration.implementation.redis._connecting import DisconnectedError, ReplyError
from events.integration.implementation.redis._entries import Keys, read_dead, topics_key
from events.integration.implementation.redis._link import Link
from events.integration.implementation.redis._scripts import BACKLOG, HEADS, REDRIVE
from events.integration.message import DeadLetter
from events.integration.paging import NotAnIdError, as_number

T = TypeVar("T")

_READ_BYTES = 4 << 20  # of entries, that the server reads at once to give their heads


class StreamDeadLetters:
    """A `DeadLetterStore` over the streams of dead letters."""

    def __init__(self, link: Link, bus: str) -> None:
        self._link = link
        self._bus = bus

    async def read(self, consumer: str, *, limit: int, after: str | None) -> Sequence[DeadLetter]:
        """See `DeadLetterStore`."""
        entry, _, last_topic = (after or "").partition("@")
        if after and not _is_id(entry):
            raise NotAnIdError(after)
        found: list[tuple[tuple[int, int, str], DeadLetter]] = []
        for topic in sorted(await self._asked(self._topics(consumer))):
            # Of one instant, those of topics that sort first come first.
            start = "-" if not entry else entry if topic > last_topic else f"({entry}"
            dead = Keys(topic, consumer).dead
            reply = await self._asked(self._link.call("XRANGE", dead, start, "+", "COUNT", limit))
            for number, fields in reply:
                ms, _, seq = number.decode().partition("-")
                letter = _letter(consumer, topic, number.decode(), fields)
                found.append(((int(ms), int(seq), topic), letter))
        found.sort(key=lambda pair: pair[0])
        return [letter for _, letter in found[:limit]]

    async def scan_heads(self, consumer: str) -> AsyncGenerator[Sequence[DeadLetter]]:
        """See `HeadSource.scan_heads`. Bodies and headers stay at the server."""
        for topic in sorted(await self._asked(self._topics(consumer))):
            dead = Keys(topic, consumer).dead
            start, more = "-", 1
            while more:
                heads, more = await self._asked(
                    self._link.run_script(HEADS, [dead], start, _READ_BYTES)
                )
                if heads:
                    start = f"({heads[-1][0].decode()}"
                yield [_head(consumer, topic, *head) for head in heads]

    async def redrive(self, consumer: str, ids: Sequence[str]) -> Sequence[str]:
        """See `DeadLetterStore`."""
        done: list[str] = []
        for letter in dict.fromkeys(ids):
            entry, keys = _place(consumer, letter)
            if _is_id(entry) and await self._asked(
                self._link.run_script(REDRIVE, [keys.dead, keys.again], entry)
            ):
                done.append(letter)
        return done

    async def discard(self, consumer: str, ids: Sequence[str]) -> Sequence[str]:
        """See `DeadLetterStore`."""
        done: list[str] = []
        for letter in dict.fromkeys(ids):
            entry, keys = _place(consumer, letter)
            if _is_id(entry) and await self._asked(self._link.call("XDEL", keys.dead, entry)):
                done.append(letter)
        return done

    async def backlog(self, consumer: str, topics: Sequence[str]) -> Backlog:
        """See `BacklogSource`."""
        waiting = in_flight = delayed = dead = 0
        oldest, settled = -1, 0
        for topic in topics:
            keys = Keys(topic, consumer)
            for stream in keys.streams:
                unread, pending, age, done = await self._asked(
                    self._link.run_script(BACKLOG, [stream], consumer)
                )
                waiting, in_flight = waiting + unread, in_flight + pending
                oldest = max(oldest, age)
                settled = -1 if -1 in {settled, done} else settled + done
            delayed += await self._asked(self._link.call("ZCARD", keys.due))
            dead += await self._asked(self._link.call("XLEN", keys.dead))
        age = None if oldest < 0 else oldest / 1000
        return Backlog(waiting, dead, in_flight, delayed, age, None if settled < 0 else settled)

    async def _topics(self, consumer: str) -> list[str]:
        return [t.decode() for t in await self._link.call("SMEMBERS", topics_key(consumer))]

    async def _asked(self, answer: Awaitable[T]) -> T:
        try:
            return await answer
        except (ReplyError, DisconnectedError) as error:
            raise BusUnavailableError(self._bus, str(error)) from error


def _place(consumer: str, id: str) -> tuple[str, Keys]:
    entry, _, topic = id.partition("@")
    return entry, Keys(topic, consumer)


def _is_id(entry: str) -> bool:
    ms, dash, seq = entry.partition("-")
    return bool(dash) and None not in (as_number(ms, 1 << 64), as_number(seq, 1 << 64))


def _letter(consumer: str, topic: str, id: str, fields: Sequence[Any]) -> DeadLetter:
    record, body, headers = read_dead(fields)
    key = attribute(headers, "partitionkey")
    return read_dead_letter(f"{id}@{topic}", consumer, record, body=body, headers=headers, key=key)


def _head(consumer: str, topic: str, number: bytes, *values: Any) -> DeadLetter:
    entry = number.decode()
    if len(values) == 1:  # what others wrote is there as a whole
        return _letter(consumer, topic, entry, values[0])
    texts = [value.decode(errors="replace") for value in values]
    record: dict[str, str] = dict(zip(NAMES, texts, strict=True))
    return read_dead_letter(f"{entry}@{topic}", consumer, record, body=b"", headers={}, key=None)
