"""Dead letters: a stream for all of them, a subject for each consumer, a number as the id.

    rejected --kept, confirmed--> dead letter --redriven, confirmed--> for its consumer alone
    and only then acknowledged                  and only then removed

A death between the two steps leaves the message in both places: the steps bear message ids of their
own, so that the second time within the stream's duplicate window does nothing.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from events.errors import BusUnavailableError
from events.integration.brokering import dead_letters as records
from events.integration.health import Backlog
from events.integration.implementation.nats import _wire as wire
from events.integration.implementation.nats._api import Api, ApiError, Nothing
from events.integration.implementation.nats._names import redrive_subject, token
from events.integration.implementation.nats._publisher import Publisher
from events.integration.implementation.nats._topology import StreamSpec
from events.integration.message import DeadLetter, Delivery, Reject

__all__ = ["NatsDeadLetters"]

T = TypeVar("T")

_STAYS = (records.ID, records.TYPE)  # with what is sent back, whose subject and message id are new


class _Stored(msgspec.Struct):
    subject: str
    seq: int
    time: str
    hdrs: str = ""
    data: str = ""


class _Got(msgspec.Struct):
    message: _Stored


class _ConsumerInfo(msgspec.Struct):
    num_pending: int = 0
    num_ack_pending: int = 0


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

    async def keep(
        self, delivery: Delivery, headers: Mapping[str, str], type: str, name: str, reject: Reject
    ) -> None:
        """Return when it is kept: body and headers as they came, with what became of it beside."""
        record = records.record_of(delivery, reject, type=type)
        error = record.pop(records.ERROR)
        kept = {n: v for n, v in headers.items() if not n.startswith("Nats-")}
        kept[wire.MSG_ID] = f"dead:{name}"
        kept |= {name: wire.text_out(value) for name, value in record.items()}
        kept[records.ERROR] = ""
        room = self._publisher.room_for(delivery.body, wire.block(kept))
        if room < 0:
            raise BusUnavailableError("NATS", "it is too large to be kept with what became of it")
        # Whole escapes only, within what the server takes.
        room = min(room, records.LONGEST_ERROR)
        kept[records.ERROR] = re.sub(r"%.?$", "", wire.text_out(error)[:room])
        subject = self._subject(delivery.consumer)
        await self._publisher.publish(self._stream, subject, delivery.body, wire.block(kept))

    async def read(self, consumer: str, *, limit: int, after: str | None) -> Sequence[DeadLetter]:
        """See `DeadLetterStore.read`."""
        letters: list[DeadLetter] = []
        following = (_number(after) or 0) + 1 if after else 1
        while len(letters) < limit:
            stored = await self._get({"seq": following, "next_by_subj": self._subject(consumer)})
            if stored is None:
                break
            letters.append(self._letter(consumer, stored))
            following = stored.seq + 1
        return letters

    async def redrive(self, consumer: str, ids: Sequence[str]) -> Sequence[str]:
        """See `DeadLetterStore.redrive`."""
        found: list[str] = []
        for letter in dict.fromkeys(ids):
            stored = await self._find(consumer, letter)
            if stored is None:
                continue
            headers = _headers(stored)
            stream = self._topic_stream(wire.text_in(headers.get(records.TOPIC)) or "")
            subject = redrive_subject(stream.name, token("Consumer", consumer))
            sent = {n: v for n, v in headers.items() if n in _STAYS or n not in records.NAMES}
            sent[wire.MSG_ID] = f"redrive:{self._stream.name}:{stored.seq}:{quote(stored.time)}"
            await self._publisher.publish(stream, subject, b64decode(stored.data), wire.block(sent))
            await self._remove(stored.seq)
            found.append(letter)
        return found

    async def discard(self, consumer: str, ids: Sequence[str]) -> Sequence[str]:
        """See `DeadLetterStore.discard`."""
        found: list[str] = []
        for letter in dict.fromkeys(ids):
            stored = await self._find(consumer, letter)
            if stored is not None:
                await self._remove(stored.seq)
                found.append(letter)
        return found

    async def backlog(self, consumer: str, topics: Sequence[str]) -> Backlog:
        """See `BacklogSource`. A message that waits for a retry counts as one in hand there."""
        name, waiting, in_flight = token("Consumer", consumer), 0, 0
        for topic in topics:
            path = f"{self._topic_stream(topic).name}.{name}"
            found = await self._info(f"CONSUMER.INFO.{path}", None, _ConsumerInfo)
            if found is not None:
                waiting, in_flight = waiting + found.num_pending, in_flight + found.num_ack_pending
        subject = self._subject(consumer)
        asked = {"subjects_filter": subject}
        kept = await self._info(f"STREAM.INFO.{self._stream.name}", asked, _StreamInfo)
        dead = 0 if kept is None else (kept.state.subjects or {}).get(subject, 0)
        return Backlog(waiting, dead, in_flight)

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
        number = _number(id)
        stored = None if number is None else await self._get({"seq": number})
        return stored if stored and stored.subject == self._subject(consumer) else None

    async def _get(self, which: dict[str, Any]) -> _Stored | None:
        try:
            verb = f"STREAM.MSG.GET.{self._stream.name}"
            return (await self._api.request(verb, which, _Got)).message
        except ApiError as error:
            if error.not_found:
                return None
            raise BusUnavailableError("NATS", str(error)) from error

    async def _remove(self, sequence: int) -> None:
        try:
            verb = f"STREAM.MSG.DELETE.{self._stream.name}"
            await self._api.request(verb, {"seq": sequence, "no_erase": True}, Nothing)
        except ApiError as error:
            if not error.not_found:
                raise BusUnavailableError("NATS", str(error)) from error

    def _letter(self, consumer: str, stored: _Stored) -> DeadLetter:
        headers = _headers(stored)
        read = wire.users(headers)
        return records.read_dead_letter(
            str(stored.seq),
            consumer,
            {n: wire.text_in(v) for n, v in headers.items() if n in records.NAMES},
            body=b64decode(stored.data),
            headers=read,
            key=wire.own_key(headers, read),
        )


def _headers(stored: _Stored) -> dict[str, str]:
    return wire.parse_block(b64decode(stored.hdrs))


def _number(id: str | None) -> int | None:
    """Read an id; the server's sequences begin at 1."""
    return int(id) if id is not None and id.isascii() and id.isdigit() and int(id) else None
