"""Dead letters: a stream for all of them, a subject for each consumer, a number as the id.

    rejected --kept, confirmed--> dead letter --redriven, confirmed--> for its consumer alone
    and only then acknowledged                  and only then removed

A death between the two steps leaves the message in both places: the steps have message ids of their
own, so that the second time within the stream's duplicate window does nothing.

A foreign message may be so large that its metadata has no room beside it. Its headers and
body are kept apart then, in as many pieces as the server takes, each under a subject of its own.
The dead letter names them and has no body itself. They are written before it and removed after it:
a death in between can leave pieces that no dead letter names, but no dead letter without pieces.
"""

from __future__ import annotations

import asyncio
import logging
import re
from base64 import b64decode
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from events.errors import BusUnavailableError
from events.integration.brokering import dead_letters as records
from events.integration.cloudevents import own_id
from events.integration.health import Backlog
from events.integration.implementation.nats import _wire as wire
from events.integration.implementation.nats._api import Api, ApiError, DeniedError, Nothing
from events.integration.implementation.nats._driver import Incoming
from events.integration.implementation.nats._names import redrive_subject, token
from events.integration.implementation.nats._publisher import Publisher
from events.integration.implementation.nats._topology import NANO, StreamSpec
from events.integration.message import DeadLetter, Delivery, Reject
from events.integration.paging import as_number, number_after

logger = logging.getLogger("events.integration")

_HEADS = 1_000  # letters of a pull, whose headers are 64 KiB at most
_FEW = 10  # letters, for which a consumer of our own is not worth while
_PULLED = 30  # seconds after which the server removes it, if we do not

T = TypeVar("T")

_STAYS = (records.ID, records.TYPE)  # with what is sent back, whose subject and message id are new
_APART = "events-apart"  # how many pieces, how many bytes of them are headers, and their subject
_LONGEST = 1_000  # characters of the metadata of a message that is kept apart, but for the error


class _Stored(msgspec.Struct):
    subject: str
    seq: int
    time: str
    hdrs: str = ""
    data: str = ""


class _Made(msgspec.Struct):
    name: str


class _Got(msgspec.Struct):
    message: _Stored


class _Delivered(msgspec.Struct, frozen=True):
    consumer_seq: int = 0


class _ConsumerInfo(msgspec.Struct):
    num_pending: int = 0
    num_ack_pending: int = 0
    delivered: _Delivered = _Delivered()


class _State(msgspec.Struct):
    subjects: dict[str, int] | None = None


class _StreamInfo(msgspec.Struct):
    state: _State


class NatsDeadLetters:
    """Keep what consumers could not handle; see `events.integration.transport.DeadLetterStore`."""

    def __init__(
        self,
        api: Api,
        publisher: Publisher,
        stream: StreamSpec,
        topic_stream: Callable[[str], StreamSpec],
    ) -> None:
        self._api = api
        self._publisher = publisher
        self._stream = stream
        self._topic_stream = topic_stream
        self._may_pull = True

    async def keep(
        self, delivery: Delivery, headers: Mapping[str, str], type: str, name: str, reject: Reject
    ) -> None:
        """Return when it is kept: body and headers as they came, and metadata of the failure."""
        record = records.record_of(delivery, reject, type=type)
        error = record.pop(records.ERROR)
        about = {wire.MSG_ID: f"dead:{name}"}
        about |= {name: wire.text_out(value) for name, value in record.items()}
        about[records.ERROR] = ""
        subject, body = self._subject(delivery.consumer), delivery.body
        original = {
            name.translate(wire.BLANKS): value
            for name, value in headers.items()
            if not name.startswith(("Nats-", _APART))
        }
        kept = original | about
        room = self._publisher.room_for(body, wire.block(kept))
        if room < 0:
            kept = {n: _cut(v, _LONGEST) for n, v in about.items()}
            kept[_APART] = await self._keep_apart(f"{subject}.{name}", original, body)
            body = b""
            room = self._publisher.room_for(body, wire.block(kept))
        kept[records.ERROR] = _cut(wire.text_out(error), min(room, records.LONGEST_ERROR))
        await self._publisher.publish(self._stream, subject, body, wire.block(kept))

    async def _keep_apart(self, subject: str, headers: Mapping[str, str], body: bytes) -> str:
        """Return when headers and body are kept in pieces, and by what to find them."""
        head = wire.block(headers)
        left, count = head + body, 0
        while left:
            place = f"{subject}.{count}"
            known = wire.block({wire.MSG_ID: f"apart:{place}"})
            size = self._publisher.max_payload - len(known)
            await self._publisher.publish(self._stream, place, left[:size], known)
            left, count = left[size:], count + 1
        return f"{count} {len(head)} {subject}"

    async def read(self, consumer: str, *, limit: int, after: str | None) -> Sequence[DeadLetter]:
        """See `DeadLetterStore.read`."""
        letters: list[DeadLetter] = []
        following = number_after(after) + 1
        if limit > _FEW and self._may_pull:
            try:
                return await self._read_many(consumer, following, limit)
            except (DeniedError, ApiError) as error:
                self._denied(error)
        while len(letters) < limit:
            stored = await self._get({"seq": following, "next_by_subj": self._subject(consumer)})
            if stored is None:
                break
            letters.append(await self._letter(consumer, stored))
            following = stored.seq + 1
        return letters

    async def _read_many(self, consumer: str, following: int, limit: int) -> list[DeadLetter]:
        async with self._consumer(consumer, following) as name:
            found = [] if name is None else await self._api.pull(self._stream.name, name, limit)
        return await self._letters(consumer, found)

    async def scan_heads(self, consumer: str) -> AsyncGenerator[Sequence[DeadLetter]]:
        """See `HeadSource.scan_heads`. Bodies stay at the server."""
        if self._may_pull:
            try:
                async with self._consumer(consumer, 1, headers_only=True) as name:
                    left = name is not None
                    while name is not None and left:
                        found = await self._api.pull(self._stream.name, name, _HEADS)
                        yield await self._letters(consumer, found, heads=True)
                        left = len(found) == _HEADS
                    return
            except (DeniedError, ApiError) as error:  # of the consumer that cannot be made
                self._denied(error)
        after, left = None, True
        while left:
            page = await self.read(consumer, limit=_HEADS, after=after)
            yield page
            left = len(page) == _HEADS
            after = page[-1].id if left else None

    def _denied(self, error: DeniedError | ApiError) -> None:
        logger.debug("dead letters are read one by one: %s", error)
        self._may_pull = not isinstance(error, DeniedError)  # another error may pass

    @asynccontextmanager
    async def _consumer(
        self, consumer: str, following: int, *, headers_only: bool = False
    ) -> AsyncGenerator[str | None]:
        """Make a consumer of our own, which acknowledges nothing; None if there is no stream."""
        stream = self._stream.name
        config = {
            "filter_subject": self._subject(consumer),
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": following,
            "ack_policy": "none",
            "headers_only": headers_only,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _PULLED * NANO,
        }
        asked = {"stream_name": stream, "config": config}
        try:
            made = await self._api.request(f"CONSUMER.CREATE.{stream}", asked, _Made)
        except ApiError as error:
            if not error.not_found:
                raise
            yield None
            return
        try:
            yield made.name
        finally:
            with suppress(BusUnavailableError):  # then the server removes it
                await self._info(f"CONSUMER.DELETE.{stream}.{made.name}", None, Nothing)

    async def _letters(
        self, consumer: str, found: Sequence[Incoming], *, heads: bool = False
    ) -> list[DeadLetter]:
        letters: list[DeadLetter] = []
        for message in found:
            headers, number = message.headers or {}, wire.position(message.reply).sequence
            if _APART not in headers:
                read = _head if heads else _read
                letters.append(read(consumer, number, headers, message.body))
            elif (stored := await self._find(consumer, str(number))) is not None:
                letters.append(await self._letter(consumer, stored))
        return letters

    async def redrive(self, consumer: str, ids: Sequence[str]) -> Sequence[str]:
        """See `DeadLetterStore.redrive`."""
        found: list[str] = []
        for letter in dict.fromkeys(ids):
            stored = await self._find(consumer, letter)
            if stored is None:
                continue
            headers, body = await self._original(stored)
            stream = self._topic_stream(wire.text_in(headers.get(records.TOPIC)) or "")
            subject = redrive_subject(stream.name, token("Consumer", consumer))
            sent = {n: v for n, v in headers.items() if n in _STAYS or n not in records.NAMES}
            sent[wire.MSG_ID] = f"redrive:{self._stream.name}:{stored.seq}:{quote(stored.time)}"
            await self._publisher.publish(stream, subject, body, self._fitting(letter, sent, body))
            await self._remove(stored)
            found.append(letter)
        return found

    def _fitting(self, letter: str, headers: dict[str, str], body: bytes) -> bytes:
        """Return headers as they travel, without those that can be spared where room is short."""
        for spared in ("", wire.MSG_ID, *_STAYS):
            headers.pop(spared, None)
            head = wire.block(headers) if headers else b""
            if self._publisher.room_for(body, head) >= 0:
                return head
        raise BusUnavailableError(
            "NATS",
            f"dead letter {letter} is too large to send back: raise the server's `max_payload`",
        )

    async def discard(self, consumer: str, ids: Sequence[str]) -> Sequence[str]:
        """See `DeadLetterStore.discard`."""
        found: list[str] = []
        for letter in dict.fromkeys(ids):
            stored = await self._find(consumer, letter)
            if stored is not None:
                await self._remove(stored)
                found.append(letter)
        return found

    async def backlog(self, consumer: str, topics: Sequence[str]) -> Backlog:
        """See `BacklogSource`. A message that waits for a retry counts as one in flight there."""
        name, waiting, in_flight, delivered = token("Consumer", consumer), 0, 0, 0
        for topic in topics:
            path = f"{self._topic_stream(topic).name}.{name}"
            found = await self._info(f"CONSUMER.INFO.{path}", None, _ConsumerInfo)
            if found is not None:
                waiting, in_flight = waiting + found.num_pending, in_flight + found.num_ack_pending
                delivered += found.delivered.consumer_seq
        subject = self._subject(consumer)
        asked = {"subjects_filter": subject}
        kept = await self._info(f"STREAM.INFO.{self._stream.name}", asked, _StreamInfo)
        dead = 0 if kept is None else (kept.state.subjects or {}).get(subject, 0)
        return Backlog(waiting, dead, in_flight, settled=delivered - in_flight)

    async def paused(self, consumers: Collection[str]) -> frozenset[str]:
        """See `PauseStore`. The mark of each is a message on a subject of its own."""
        names = list(consumers)
        there = await asyncio.gather(*map(self._mark_of, names))
        return frozenset(n for n, mark in zip(names, there, strict=True) if mark is not None)

    async def set_paused(self, consumer: str, *, paused: bool) -> bool:
        """See `PauseStore`."""
        mark = await self._mark_of(consumer)
        changed = paused == (mark is None)
        if paused and mark is None:
            await self._publisher.publish(self._stream, self._mark(consumer), b"")
        while not paused and mark is not None:  # two who paused it at once left two
            await self._remove(mark)
            mark = await self._mark_of(consumer)
        return changed

    async def _mark_of(self, consumer: str) -> _Stored | None:
        return await self._get({"last_by_subj": self._mark(consumer)})

    def _mark(self, consumer: str) -> str:
        return f"{self._stream.name}.@paused.{token('Consumer', consumer)}"

    async def _info(self, verb: str, body: object, answer: type[T]) -> T | None:
        try:
            return await self._api.request(verb, body, answer)
        except ApiError as error:
            if error.not_found:
                return None
            raise BusUnavailableError("NATS", f"{verb}: {error}") from error

    def _subject(self, consumer: str) -> str:
        return f"{self._stream.name}.{token('Consumer', consumer)}"

    async def _find(self, consumer: str, id: str) -> _Stored | None:
        number = as_number(id)
        stored = await self._get({"seq": number}) if number else None
        return stored if stored and stored.subject == self._subject(consumer) else None

    async def _get(self, which: dict[str, Any]) -> _Stored | None:
        try:
            verb = f"STREAM.MSG.GET.{self._stream.name}"
            return (await self._api.request(verb, which, _Got)).message
        except ApiError as error:
            if error.not_found:
                return None
            raise BusUnavailableError("NATS", str(error)) from error

    async def _remove(self, stored: _Stored) -> None:
        await self._delete(stored.seq)
        for place in _pieces(_headers(stored)):
            while (piece := await self._get({"last_by_subj": place})) is not None:
                await self._delete(piece.seq)

    async def _delete(self, sequence: int) -> None:
        try:
            verb = f"STREAM.MSG.DELETE.{self._stream.name}"
            await self._api.request(verb, {"seq": sequence, "no_erase": True}, Nothing)
        except ApiError as error:
            if not error.not_found:
                raise BusUnavailableError("NATS", str(error)) from error

    async def _original(self, stored: _Stored) -> tuple[dict[str, str], bytes]:
        """Return the headers, with the metadata, and the body."""
        headers = _headers(stored)
        if _APART not in headers:
            return headers, b64decode(stored.data)
        pieces: list[bytes] = []
        for place in _pieces(headers):
            piece = await self._get({"last_by_subj": place})
            pieces.append(b64decode(piece.data) if piece is not None else b"")
        whole, size = b"".join(pieces), int(headers.pop(_APART).split()[1])
        original, body = wire.parse_block(whole[:size]), whole[size:]
        if own := own_id(wire.users(original), body):  # that above it may be cut
            headers[records.ID] = wire.text_out(own)
        return original | headers, body

    async def _letter(self, consumer: str, stored: _Stored) -> DeadLetter:
        headers, body = await self._original(stored)
        return _read(consumer, stored.seq, headers, body)


def _read(consumer: str, number: int, headers: Mapping[str, str], body: bytes) -> DeadLetter:
    read, record = wire.users(headers), _record(headers)
    key = wire.own_key(headers, read)
    return records.read_dead_letter(str(number), consumer, record, body=body, headers=read, key=key)


def _head(consumer: str, number: int, headers: Mapping[str, str], body: bytes) -> DeadLetter:
    record = _record(headers)
    # The type there is what the event's own headers tell, so these need not be read for it.
    read = {} if record.get(records.TYPE) else wire.users(headers)
    return records.read_dead_letter(
        str(number), consumer, record, body=body, headers=read, key=None
    )


def _record(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: wire.text_in(headers[name]) for name in records.NAMES if name in headers}


def _pieces(headers: Mapping[str, str]) -> list[str]:
    """Return the subjects of what is kept apart from a dead letter with these headers."""
    if _APART not in headers:
        return []
    count, _, subject = headers[_APART].split()
    return [f"{subject}.{number}" for number in range(int(count))]


def _cut(text: str, longest: int) -> str:
    """Shorten what `text_out` has written: whole escapes only."""
    return text if len(text) <= longest else re.sub(r"%.?$", "", text[:longest])


def _headers(stored: _Stored) -> dict[str, str]:
    return wire.parse_block(b64decode(stored.hdrs))
