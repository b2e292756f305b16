"""How many attempts a message has had at a consumer, kept at the server.

JetStream counts deliveries: those that a shutdown gave back count as well, and attempts that
waited in place do not. So what is delivered for the first time is attempt 1, and from then on the
ledger knows better. An entry says how many attempts were begun, and how many of them in a row
ended with no word, as a process's death does:

    first delivery, no entry          --fails, retried--> (attempts made, 0)
                                      --given back------> (attempts before, 0)
                                      --no word---------> no entry, which reads as (1, 1)
    later delivery, before it begins  ------------------> (attempts + 1, silent + 1)

An entry is written before what it tells happens, so a death at any moment leaves a count that is
right, or one too high for a message that was at hand and not begun.
"""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import msgspec

from events.errors import BusError
from events.integration.implementation.nats._api import Api, ApiError, Nothing
from events.integration.implementation.nats._publisher import Publisher
from events.integration.implementation.nats._topology import StreamSpec

__all__ = ["UNSAID", "Ledger", "Record"]


class Record(msgspec.Struct, frozen=True):
    """Attempts that were begun, and how many of the last ones ended without a word."""

    attempts: int
    silent: int


UNSAID = Record(1, 1)  # delivered before, and nothing was written: it may have been begun

_decode = msgspec.json.Decoder(Record).decode


class _Stored(msgspec.Struct):
    data: str = ""


class _Got(msgspec.Struct):
    message: _Stored


class Ledger:
    """Read and write entries; each is named by the stream, the consumer and the message's place."""

    def __init__(self, api: Api, publisher: Publisher, stream: StreamSpec) -> None:
        self._api = api
        self._publisher = publisher
        self._stream = stream

    async def read(self, name: str) -> Record:
        """Return what is known of a message that was delivered before."""
        body: dict[str, Any] = {"last_by_subj": f"{self._stream.name}.{name}"}
        try:
            got = await self._api.request(f"STREAM.MSG.GET.{self._stream.name}", body, _Got)
        except ApiError as error:
            if error.not_found:
                return UNSAID
            raise
        return _decode(b64decode(got.message.data))

    async def write(self, name: str, record: Record) -> None:
        """Return when the server has it."""
        subject = f"{self._stream.name}.{name}"
        await self._publisher.publish(self._stream, subject, msgspec.json.encode(record))

    async def forget(self, name: str) -> None:
        """Remove an entry, if that is possible now; if not, it goes when its time is over."""
        body = {"filter": f"{self._stream.name}.{name}"}
        try:
            await self._api.request(f"STREAM.PURGE.{self._stream.name}", body, Nothing)
        except (BusError, ApiError):
            return
