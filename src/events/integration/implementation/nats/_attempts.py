"""The attempts of each message at a consumer, kept at the server.

JetStream counts deliveries: those that a shutdown gave back count as well, and attempts that
waited in place do not. So what is delivered for the first time is attempt 1, and from then on the
entry kept here knows better. It says how many attempts ended, and how many deliveries after them
ended with no word, as by a process's death:

    first delivery, no entry          --fails, retried--> (attempts made, 0)
                                      --given back------> (attempts before, 0)
                                      --no word---------> no entry, which reads as (0, 1)
    later delivery, before it begins  ------------------> (attempts, crashes + 1)

An entry is written before what it tells happens, so a death at any moment leaves a count that is
right, or one too high for a message that was in flight and not begun. No entry at all says that no
attempt ended: the message may have ended its process, or it was on its way there and lost with the
connection.

A settled message no longer needs its entry. The settling process removes it, again if the
connection was lost meanwhile. Entries of a process that died in between are removed when its
consumer starts next: everything up to the consumer's floor is acknowledged, and so settled.
"""

from __future__ import annotations

import asyncio
import logging
from base64 import b64decode
from contextlib import suppress
from typing import Any

import msgspec

from events.errors import (
    BusError,
    BusUnavailableError,
    InvalidTopologyError,
    SendRefusedError,
)
from events.integration.brokering.problems import Problems
from events.integration.implementation.nats._api import Api, ApiError, DeniedError, Nothing
from events.integration.implementation.nats._link import Link
from events.integration.implementation.nats._publisher import Publisher
from events.integration.implementation.nats._topology import NotTakenError, StreamSpec

logger = logging.getLogger("events.integration")

_AT_ONCE = 100  # entries that are being removed
_REFUSED_FOR = 5.0  # seconds until the server is asked again to keep what it refused
_REMEMBERED = 10_000  # entries that are kept here meanwhile
_UNCOUNTED = 2  # the delivery that begins now, and the first one, which may not have begun
_WRITING = "writing"
_PAUSE = 1.0  # seconds until what could not be removed is tried again


class Record(msgspec.Struct, frozen=True):
    """Attempts that ended, and how many deliveries since then ended without an outcome."""

    attempts: int = 0
    crashes: int = 0


UNSAID = Record(0, 1)  # delivered before, nothing written: it ended its process, or never began

_decode = msgspec.json.Decoder(Record).decode


class _Stored(msgspec.Struct):
    data: str = ""


class _Got(msgspec.Struct):
    message: _Stored


class _State(msgspec.Struct):
    subjects: dict[str, int] | None = None


class _StreamInfo(msgspec.Struct):
    state: _State


class _Floor(msgspec.Struct):
    stream_seq: int = 0


class _ConsumerInfo(msgspec.Struct):
    ack_floor: _Floor


class Attempts:
    """Read and write entries; each is named by the stream, the consumer and the message's place."""

    def __init__(self, link: Link, api: Api, publisher: Publisher, stream: StreamSpec) -> None:
        self._link = link
        self._api = api
        self._publisher = publisher
        self._stream = stream
        self._settled: dict[str, None] = {}  # an ordered set of names
        self._unwritten: dict[str, Record] = {}  # entries that the server did not take
        self._problems = Problems(link.name)
        self._again = 0.0  # when writing is tried again that was refused
        self._forgetting: asyncio.Task[None] | None = None

    async def read(self, name: str, delivered: int) -> Record:
        """Return what is known of a message that was delivered before.

        Where counts cannot be kept at the server, it is what this process knows, or else
        JetStream's own count of deliveries, which is too high after a shutdown.
        """
        own = self._unwritten.get(name)
        if own is not None:
            return own
        try:
            record = await self._read(name)
        except (ApiError, DeniedError) as error:
            self._cannot(error)
            record = UNSAID
        if record is UNSAID and self._problems:
            return Record(max(0, delivered - _UNCOUNTED), 0)
        return record

    async def _read(self, name: str) -> Record:
        body: dict[str, Any] = {"last_by_subj": f"{self._stream.name}.{name}"}
        try:
            got = await self._api.request(f"STREAM.MSG.GET.{self._stream.name}", body, _Got)
        except ApiError as error:
            if error.not_found:
                return UNSAID
            raise
        return _decode(b64decode(got.message.data))

    async def write(self, name: str, record: Record) -> None:
        """Return when the server has it, or when it has said that it will not take it."""
        subject = f"{self._stream.name}.{name}"
        now = asyncio.get_running_loop().time
        if now() >= self._again:
            try:
                await self._publisher.publish(self._stream, subject, msgspec.json.encode(record))
            except (NotTakenError, SendRefusedError, InvalidTopologyError) as error:
                self._again = now() + _REFUSED_FOR
                self._cannot(error)
            else:
                self._unwritten.pop(name, None)
                self._problems.clear(_WRITING)
                return
        self._unwritten.pop(name, None)
        self._unwritten[name] = record
        if len(self._unwritten) > _REMEMBERED:
            del self._unwritten[next(iter(self._unwritten))]

    def _cannot(self, error: Exception) -> None:
        reason: object = error
        if isinstance(error, BusUnavailableError | SendRefusedError):
            reason = error.reason
        self._problems.report(
            _WRITING,
            f"attempts cannot be counted in stream {self._stream.name!r}, so JetStream's own count "
            f"of deliveries is used after a restart: {reason}",
        )

    def forget(self, name: str) -> None:
        """Remove an entry, as soon as that is possible."""
        self._unwritten.pop(name, None)
        self._settled[name] = None
        if self._forgetting is None:
            self._forgetting = asyncio.create_task(self._forget_all(), name="nats-attempts")

    async def sweep(self, stream: str, consumer: str) -> None:
        """Remove entries that were left behind of what is settled."""
        prefix = f"{self._stream.name}."
        only = {"subjects_filter": f"{prefix}{stream}.{consumer}.*"}
        with suppress(BusError, ApiError):  # the stream is not there yet, or the next one does it
            info = await self._api.request(f"STREAM.INFO.{self._stream.name}", only, _StreamInfo)
            if not info.state.subjects:
                return
            path = f"CONSUMER.INFO.{stream}.{consumer}"
            floor = (await self._api.request(path, None, _ConsumerInfo)).ack_floor.stream_seq
            for subject in info.state.subjects:
                place, _, _ = subject.rpartition(".")[2].partition("-")
                if place.isdecimal() and int(place) <= floor:
                    self.forget(subject.removeprefix(prefix))

    async def close(self) -> None:
        """Wait for what is being removed, for a while."""
        task, self._forgetting = self._forgetting, None
        if task is not None:
            await asyncio.wait([task], timeout=await self._link.time_to_wait(_PAUSE))
            task.cancel()
            await asyncio.wait([task])
        self._settled.clear()

    async def _forget_all(self) -> None:
        while self._settled:
            await self._link.wait_up()
            names = list(self._settled)[:_AT_ONCE]
            removed = await asyncio.gather(*map(self._remove, names))
            for name, is_removed in zip(names, removed, strict=True):
                if is_removed:
                    del self._settled[name]
            if not all(removed):
                await asyncio.sleep(_PAUSE)
        self._forgetting = None

    async def _remove(self, name: str) -> bool:
        """Remove an entry; return whether there is nothing left to do."""
        body = {"filter": f"{self._stream.name}.{name}"}
        try:
            await self._api.request(f"STREAM.PURGE.{self._stream.name}", body, Nothing)
        except (ApiError, DeniedError) as error:
            logger.debug("the entry %r cannot be removed: %s", name, error)
        except BusError:
            return False
        return True
